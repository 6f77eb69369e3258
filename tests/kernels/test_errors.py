"""A failure inside a kernel is a Python exception, on any number of threads, and the process lives on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import ninefold

_kernels = pytest.importorskip("ninefold._kernels", reason="the extension is not built")


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_wrong_bound_is_an_exception_with_the_kernels_words(threads: int) -> None:
    with pytest.raises(RuntimeError, match=r"a kernel refused its arguments \(-4\).*image"):
        _kernels.refuse(threads)


def test_the_process_computes_on_after_an_error(isa: str) -> None:
    x, weight = torch.ones(1, 40, 5, 5), torch.ones(8, 40, 1, 1)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            _kernels.refuse(2)
        assert torch.equal(ninefold.ops.pointwise_conv2d(x, weight), torch.full((1, 8, 5, 5), 40.0))


def test_a_null_image_is_refused() -> None:
    weight = torch.ones(16, 1, 3, 3)
    window = _kernels.Window(3, 3, 1, 1, 1, 1)
    depthwise = _kernels.Depthwise(weight.data_ptr(), 0, 16, 1, window, "")
    with pytest.raises(ValueError, match=r"`x` must be the address of an array, got null"):
        depthwise.run(0, 1, 5, 5, 16, _kernels.Padding(1, 1, 1, 1), torch.empty(400).data_ptr(), 1)


def test_stages_that_do_not_fit_are_refused() -> None:
    weight = torch.ones(16, 16)
    window = _kernels.Window(1, 1, 1, 1, 1, 1)
    depthwise = _kernels.Depthwise(weight.data_ptr(), 0, 16, 1, window, "")
    pointwise = _kernels.Pointwise(weight.data_ptr(), 0, 8, 16, "", 1)
    with pytest.raises(ValueError, match="must take the channels that the depthwise stage gives"):
        _kernels.Separable(depthwise, pointwise)


def test_an_unknown_instruction_set_is_refused_by_name() -> None:
    before = _kernels.instruction_set()
    with pytest.raises(ValueError, match=r"the instruction set must be one of .*, got mmx"):
        _kernels.use("mmx")
    assert _kernels.instruction_set() == before


USED = "from ninefold import _kernels; print(_kernels.instruction_set())"


@pytest.mark.parametrize("name", _kernels.instruction_sets())
def test_the_environment_forces_an_instruction_set(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", USED],
        capture_output=True,
        text=True,
        env={**os.environ, "NINEFOLD_ISA": name},
        check=True,
    )
    assert done.stdout == f"{name}\n"


def test_an_unknown_name_in_the_environment_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", USED],
        capture_output=True,
        text=True,
        env={**os.environ, "NINEFOLD_ISA": "mmx"},
        check=False,
    )
    assert done.returncode == 1
    assert "ValueError: `NINEFOLD_ISA` must be one of" in done.stderr.splitlines()[-1]
    assert done.stderr.endswith(", got mmx\n")
