"""`for_inference` of a network on a GPU: blocks in Triton's kernels, other batches and sizes too."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import ninefold


def network() -> nn.Module:
    def unit(inputs: int, outputs: int, kernel: int, groups: int = 1, stride: int = 1) -> list[nn.Module]:
        around = kernel // 2
        layer = nn.Conv2d(inputs, outputs, kernel, stride, around, groups=groups, bias=False)
        return [layer, nn.BatchNorm2d(outputs), nn.ReLU6()]

    layers = [*unit(3, 8, 3, stride=2), *unit(8, 24, 1), *unit(24, 24, 3, groups=24), *unit(24, 12, 1)[:2]]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network(device, dtype, launched):
    torch.manual_seed(2)
    model = network().to(device=device, dtype=dtype)
    plain = copy.deepcopy(model)
    fast = ninefold.for_inference(model, torch.randn(1, 3, 10, 10, device=device, dtype=dtype))
    told = {layer.name: layer.how for layer in fast.layers}
    assert told["6 + 9"] == "fused" and told["3"] == "kernel"
    launched.clear()
    for shape in ((2, 3, 10, 10), (1, 3, 14, 12)):
        x = torch.randn(shape, device=device, dtype=dtype)
        with torch.no_grad():
            want = plain(x)
        got = fast(x)
        assert got.dtype is dtype and "separable_kernel" in launched and "pointwise_kernel" in launched
        tolerance = 1e-5 if dtype is torch.float32 else 3e-2
        assert float((got - want).abs().max()) <= tolerance * max(1.0, float(want.abs().max()))
        launched.clear()
