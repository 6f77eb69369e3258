from __future__ import annotations

from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner


@pytest.fixture
def promise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.setattr(import_module("cases"), "FOLDER", tmp_path / "peers")
    return import_module("promise")


def result(promise: ModuleType, **turns: list[float]) -> object:
    layer = promise.ops.Layer(512, 1024, 14, 1)
    ours = {"separable": promise.SEPARABLE, "direct": promise.DIRECT}
    named = {ours.get(name, name): taken for name, taken in turns.items()}
    return promise.Result(named, {}, {}, layer, 1)


def test_the_arithmetic_is_that_of_the_definition(promise: ModuleType) -> None:
    assert result(promise, separable=[1.0]).arithmetic == Fraction(9 * 1024, 9 + 1024)


def test_the_promise_is_kept_against_the_fastest_standard_one(promise: ModuleType) -> None:
    ours = {"direct": [9.0, 9.0], "Ninefold": [3.0, 3.0], "separable": [1.0, 1.0]}
    timed = result(promise, **ours, OpenVINO=[10.0, 8.0])
    assert timed.fastest_standard(fewer=False) == promise.DIRECT
    assert timed.fastest_standard(fewer=True) == "Ninefold"
    assert timed.kept(promise.DIRECT) == pytest.approx(9 / (9216 / 1033))
    assert timed.kept("OpenVINO") == pytest.approx(9 / (9216 / 1033))
    assert timed.kept("Ninefold") == pytest.approx(3 / (9216 / 1033))


def test_every_library_gives_a_layers_image(promise: ModuleType) -> None:
    # ncnn's was flattened once, refused for its shape, and missing from every row.
    names = [name for name, row in promise.LIBRARIES.items() if not row.missing]
    timed = promise.run(promise.ops.Layer(8, 16, 6, 1), names, threads=1, seconds=0)
    assert not timed.failed


def test_a_small_shape_is_measured_and_written(
    promise: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(promise.ops, "SHAPES", tmp_path)
    monkeypatch.setattr(promise.page, "RESULTS", tmp_path / "results")
    (tmp_path / "small.txt").write_text("8 16 6 1\n")
    arguments = [
        "--shapes",
        "small",
        "--threads",
        "1",
        "--seconds",
        "0",
        "--library",
        "PyTorch, channels-last",
    ]
    done = CliRunner().invoke(promise.main, [*arguments, "--write"], catch_exceptions=False)
    assert done.exit_code == 0
    page = (tmp_path / "results" / "promise.md").read_text()
    words = "| 8, 16, 6, 1 ", "5.76×", "The promise kept: geometric mean", "with Winograd's"
    for each in (*words, "PyTorch, channels-last 2."):
        assert each in page, each
    assert "8 → 16, 6²/1" in (tmp_path / "results" / "promise.svg").read_text()
