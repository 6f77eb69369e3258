from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner


@pytest.fixture
def cliffs() -> ModuleType:
    return import_module("cliffs")


def test_the_grid_has_every_kernel_stride_dilation_channel_and_size(cliffs: ModuleType) -> None:
    shapes = list(cliffs.grid(("depthwise",)))
    for field, values in (
        ("kernel_size", set(range(1, 8))),
        ("stride", {1, 2}),
        ("dilation", {1, 2}),
        ("in_channels", set(cliffs.CHANNELS)),
        ("size", set(cliffs.SIZES)),
    ):
        assert {getattr(shape, field) for shape in shapes} == values
    assert len(shapes) == len(set(shapes)) > 1400
    assert all(shape.multiplications > 0 for shape in cliffs.grid(("pointwise", "standard")))


@pytest.mark.parametrize(
    ("ours", "theirs", "falls"),
    [(25e-6, 10e-6, False), (25.1e-6, 10e-6, True), (1.1e-3, 1e-3, False), (1.11e-3, 1e-3, True)],
)
def test_a_case_falls_off_beyond_both_allowances(
    cliffs: ModuleType, ours: float, theirs: float, falls: bool
) -> None:
    shape = cliffs.Shape("depthwise", 8, 8, 3, 1, 1, 7)
    assert (cliffs.Result(shape, ours - 1e-12, theirs, cliffs.NHWC).excess > 0) is falls


@pytest.mark.parametrize("operator", ["depthwise", "pointwise", "standard"])
def test_a_wrong_operator_has_no_time(
    cliffs: ModuleType, operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = cliffs.Shape(operator, 8, 8, 1, 1, 1, 7)
    made = cliffs.contenders(shape)
    assert torch.allclose(made[cliffs.OURS](), made[cliffs.NCHW](), atol=1e-5)
    monkeypatch.setattr(cliffs, "contenders", lambda _: made | {cliffs.OURS: lambda: made[cliffs.NCHW]() + 1})
    with pytest.raises(ArithmeticError, match=f"{operator} 1×1/1, dilation 1, 8.* off by"):
        cliffs.run(shape, seconds=0)


def test_the_worst_cases_are_printed(
    cliffs: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cliffs.page, "RESULTS", tmp_path)
    monkeypatch.setattr(cliffs, "CHANNELS", (8,))
    monkeypatch.setattr(cliffs, "SIZES", (7,))
    arguments = ["--threads", "1", "--operator", "pointwise", "--seconds", "0", "--write"]
    done = CliRunner().invoke(cliffs.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    page = (tmp_path / "cliffs.md").read_text()
    assert "of 1 shapes fall off" in page and "| pointwise 1×1/1, dilation 1, 8 → 8 × 7² |" in page
