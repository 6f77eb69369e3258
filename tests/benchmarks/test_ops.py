from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner


@pytest.fixture
def ops() -> ModuleType:
    return import_module("ops")


def test_the_ten_shapes_of_mobilenet_v1(ops: ModuleType) -> None:
    layers = ops.read("mobilenet_v1")
    assert len(layers) == 10
    assert layers[3] == ops.Layer(128, 256, 56, 2)
    assert layers[3].multiplications == 128 * 28 * 28 * (9 + 256)


def test_a_line_that_is_no_layer_is_named(
    ops: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "SHAPES", tmp_path)
    (tmp_path / "bad.txt").write_text("# four\n1 2 3 4\n1 2 three 4\n")
    with pytest.raises(ValueError, match=r"bad\.txt:3: expected four integers, got '1 2 three 4'"):
        ops.read("bad")


def test_no_speed_is_reported_for_a_wrong_result(ops: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = ops.Layer(8, 8, 6, 1)
    ops.run(layer, threads=1, seconds=0)
    candidates, right = ops.contenders(layer)
    for wrong in (torch.zeros_like(right).float(), torch.full_like(right, torch.nan).float()):
        both = {**candidates, ops.PACKED: lambda wrong=wrong: wrong}
        monkeypatch.setattr(ops, "contenders", lambda layer, both=both: (both, right))
        with pytest.raises(ArithmeticError, match="packed is off by"):
            ops.run(layer, threads=1, seconds=0)


def test_the_page_has_limits_versions_and_its_command(
    ops: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "SHAPES", tmp_path)
    monkeypatch.setattr(ops.page, "RESULTS", tmp_path / "results")
    (tmp_path / "small.txt").write_text("8 16 6 1\n")
    arguments = ["--shapes", "small", "--threads", "1", "--seconds", "0.01", "--write"]
    result = CliRunner().invoke(ops.main, arguments, catch_exceptions=False)
    said = (tmp_path / "results" / "ops.md").read_text()
    assert said in result.stdout
    expected = "## 1 thread\n", "| 8, 16, 6, 1 ", "geometric mean", "GFLOP/s", "limits, 1 thread", "torch 2."
    for words in expected:
        assert words in said, words
    result = CliRunner().invoke(ops.main, [*arguments[:-1], "--json"], catch_exceptions=False)
    data = json.loads(result.stdout)
    assert data["results"][0]["threads"] == 1 and data["results"][0]["layer"]["out_channels"] == 16
    assert data["machines"][0]["gflops"] > 0
