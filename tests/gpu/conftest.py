"""GPU tests: natively where there is a GPU, else in Triton's interpreter.

That must be asked for before Triton is imported: `test_interpreted.py` runs the others in another process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

NATIVE = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = (
    []
    if NATIVE or INTERPRETED
    else [
        "test_chains.py",
        "test_inference.py",
        "test_operators.py",
        "test_registration.py",
        "test_replay.py",
        "test_separable_gradients.py",
    ]
)
if INTERPRETED:
    collect_ignore_glob += ["test_compiled.py", "test_replay.py", "test_traced.py"]


@pytest.fixture
def device() -> str:
    """Where the kernels run."""
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let `ninefold.ops` believe that its tensors are a GPU's; float32 shall be float32."""
    if INTERPRETED:
        from ninefold.ops import backend

        monkeypatch.setattr(backend, "on_gpu", lambda x: True)
    elif NATIVE:
        # Our kernels are what is tested, also where PyTorch's are faster.
        from ninefold.gpu import planner

        monkeypatch.setattr(planner, "can_measure", lambda like: False)
    # Not by assignment, which PyTorch refuses once its own testing tools have been imported.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if NATIVE else nullcontext():
        yield


TOLERANCE = {torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture
def near() -> Callable[..., None]:
    """Hold a result to float64, within what its dtype rounds off the largest value."""

    def check(got: torch.Tensor, want: Any, times: float = 1) -> None:
        right = np.asarray(want.detach() if isinstance(want, torch.Tensor) else want)
        assert tuple(got.shape) == right.shape
        error = np.abs(got.detach().double().cpu().numpy() - right).max()
        assert error <= times * TOLERANCE[got.dtype] * max(1.0, np.abs(right).max()), error

    return check


@pytest.fixture
def image(device: str) -> Callable[..., torch.Tensor]:
    """Make a channels-last tensor of normally distributed numbers."""
    generator = torch.Generator().manual_seed(4)

    def make(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
        made = (torch.randn(shape, generator=generator) * scale).to(device=device, dtype=dtype)
        return made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made

    return make


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that were started, by name: a test must not pass because PyTorch did the work."""
    from ninefold.gpu import launch

    names: list[str] = []
    run = launch.run

    def noted(kernel: Any, *args: Any, **named: Any) -> None:
        names.append(kernel.fn.__name__)
        run(kernel, *args, **named)

    monkeypatch.setattr(launch, "run", noted)
    return names
