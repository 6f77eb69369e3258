"""A converted network in other hands: ONNX Runtime, `for_inference`, `for_training`."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from ninefold import convert, for_inference, for_training, models, restore, training

X = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[("depthwise", 1), ("depthwise", 2), ("pointwise", 2)], ids=str)
def converted(request: pytest.FixtureRequest) -> nn.Module:
    """Four converted layers: with stride, dilation and groups."""
    order, terms = request.param
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=2, dilation=2),
        nn.Hardswish(),
        nn.Conv2d(12, 16, 5, padding=2, groups=2),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.Conv2d(16, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    with torch.no_grad():
        model(X)
    result = convert(model.eval(), X[:1], X, terms, order=order)
    assert [layer.converted for layer in result.layers] == [False, True, True, True, True]
    return result.model


def test_it_exports_to_onnx(converted: nn.Module, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    file = tmp_path / "converted.onnx"
    torch.onnx.export(converted, (X,), str(file), dynamo=True, verbose=False)
    session = runtime.InferenceSession(str(file))
    (answers,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    with torch.no_grad():
        wanted = converted(X)
        torch.testing.assert_close(torch.from_numpy(answers), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(models.load(str(file)).model(X), wanted, rtol=1e-4, atol=1e-5)


def test_it_runs_in_the_kernels(converted: nn.Module) -> None:
    fast = for_inference(converted, X[:1])
    with torch.no_grad():
        torch.testing.assert_close(fast(X), converted(X), rtol=1e-4, atol=1e-5)
    kernels = [line for line in fast.summary().splitlines() if "fused" in line or "kernel" in line]
    assert len(kernels) >= 4, fast.summary()


def test_it_trains_in_the_kernels(converted: nn.Module) -> None:
    ours, theirs = copy.deepcopy(converted).train(), copy.deepcopy(converted).train().double()
    torch._dynamo.reset()
    for_training(ours)
    for model, x in ((ours, X), (theirs, X.double())):
        model(x).square().mean().backward()
    # Two terms with depthwise first are a depth multiplier, which has no training kernel.
    several = "a depth multiplier" in training.summary(ours)
    assert training.summary(ours).startswith("2 of 9" if several else "9 of 9"), training.summary(ours)
    for got, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(got.grad.double(), wanted.grad, rtol=1e-3, atol=1e-6)
    for got, wanted in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(got.to(wanted.dtype), wanted, rtol=1e-4, atol=1e-5)
    restore(ours)
    torch._dynamo.reset()
