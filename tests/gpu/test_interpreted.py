"""Without a GPU: the kernels' tests in Triton's interpreter, and who gets a call."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ninefold
from ninefold import ops
from ninefold.ops import backend

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def test_the_kernels_in_the_interpreter() -> None:
    if torch.cuda.is_available() or INTERPRETED:
        pytest.skip("this machine runs the same tests itself")
    pytest.importorskip("triton", reason="triton is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).parent)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_a_gpu_without_triton_is_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "on_gpu", lambda x: True)
    monkeypatch.setattr(backend, "triton_kernels", lambda: None)
    x, weight = torch.randn(1, 8, 5, 5).half(), torch.randn(8, 1, 3, 3).half()
    assert backend.for_call(x, weight) is None
    got = ops.depthwise_conv2d(x, weight, padding=1)
    assert torch.equal(got, torch.nn.functional.conv2d(x, weight, padding=1, groups=8))


@pytest.mark.parametrize(("one", "other"), [(torch.float64,) * 2, (torch.float32, torch.float16)])
def test_other_dtypes_on_a_gpu_are_pytorchs(
    one: torch.dtype, other: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "on_gpu", lambda x: True)
    x, weight = torch.randn(1, 8, 5, 5, dtype=one), torch.randn(8, 1, 3, 3, dtype=other)
    assert backend.for_call(x, weight) is None


@pytest.mark.parametrize("grad", [True, False])
def test_networks_on_a_gpu_without_triton_are_pytorchs(grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "on_gpu", lambda x: True)
    monkeypatch.setattr(backend, "triton_kernels", lambda: None)
    torch._dynamo.reset()
    model = torch.nn.Sequential(
        torch.nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 4, 1)
    ).bfloat16()
    x = torch.randn(2, 8, 5, 5, dtype=torch.bfloat16)
    plain = copy.deepcopy(model)
    fast = ninefold.for_training(model)
    with torch.set_grad_enabled(grad):
        assert torch.equal(fast(x), plain(x))
    if grad:
        assert "PyTorch  0: Triton is not installed" in ninefold.training.summary(model)
    frozen = ninefold.for_inference(plain, x)
    plain.eval()
    with torch.no_grad():
        torch.testing.assert_close(frozen(x), plain(x), rtol=5e-2, atol=5e-2)
