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
    named = {{"separable": promise.SEPARABLE}.get(name, name): taken for name, taken in turns.items()}
    return promise.Result(named, {}, {}, layer, 1)


def test_the_arithmetic_is_that_of_the_definition(promise: ModuleType) -> None:
    assert result(promise, separable=[1.0]).arithmetic == Fraction(9 * 1024, 9 + 1024)


def test_the_promise_is_kept_against_the_fastest_standard_one(promise: ModuleType) -> None:
    timed = result(promise, Ninefold=[9.0, 9.0], OpenVINO=[10.0, 8.0], separable=[1.0, 1.0])
    assert timed.fastest_standard == "Ninefold"
    assert timed.kept("Ninefold") == pytest.approx(9 / (9216 / 1033))
    assert timed.kept("OpenVINO") == pytest.approx(9 / (9216 / 1033))


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
    for words in ("| 8, 16, 6, 1 ", "5.76×", "The promise kept: geometric mean", "PyTorch, channels-last 2."):
        assert words in page, words
    assert "8 → 16, 6²/1" in (tmp_path / "results" / "promise.svg").read_text()
