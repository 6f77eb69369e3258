"""Images that depthwise layers write past the caches: the same numbers, to the bit, in the same places."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ninefold.ops import passes
from ninefold.ops.cpu import _kernels
from ninefold.ops.operands import Gradient, Operand

PAST, THROUGH = 0, 1 << 40  # what the caches are said to hold, in bytes


@pytest.fixture(autouse=True)
def _as_ever(isa: str) -> Iterator[None]:
    torch.manual_seed(5)
    yield
    _kernels.caches_hold(-1)


def image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


def operand(z: torch.Tensor, activation: str | None) -> Operand:
    numbers = torch.stack([torch.randn(z.shape[1]), *torch.rand(3, z.shape[1]).unbind()])
    return Operand(z, numbers, activation)


# Columns of 24 and 17 channels end within a cache line; a plain image of 16 takes the bare way.
WAYS = [
    (16, 3, 1, 14, "plain"),
    (24, 3, 1, 9, "relu6"),
    (17, 5, 1, 7, "silu"),
    (24, 3, 2, 12, "relu"),
    (17, 3, 2, 9, "relu6"),
    (16, 5, 2, 8, "silu"),
    (24, 7, 2, 11, "relu"),
    (8, 3, 3, 10, "plain"),
]


@pytest.mark.parametrize(("channels", "kernel", "stride", "size", "read"), WAYS)
def test_a_depthwise_layers_passes(threads: int, channels, kernel, stride, size, read) -> None:
    x = image(2, channels, size, size)
    x = Operand(x) if read == "plain" else operand(x, read)
    weight = torch.randn(channels, 1, kernel, kernel)
    options = (stride, stride), (kernel // 2,) * 4, (1, 1)
    out = (size - 1) // stride + 1
    arrived = image(2, channels, out, out)
    plain = Gradient(Operand(arrived), arrived)
    turned = Gradient(operand(image(2, channels, out, out), "relu"), arrived, torch.rand(3, channels))
    made = []
    for held in (PAST, THROUGH):
        _kernels.caches_hold(held)
        moments = torch.empty(2, channels)
        forward = passes.depthwise(x, weight, None, *options, moments)
        found = [forward, moments]
        for dz in (plain, turned):
            back = passes.depthwise_backward(dz, x, weight, *options, (True, True))
            found += [back.weight, back.input] + ([] if back.sums is None else [back.sums])
        made.append(found)
    for past, through in zip(*made, strict=True):
        assert torch.equal(past, through)
    assert passes.depthwise_backward(plain, x, weight, *options, (True, False)).input is None


def test_a_standard_convolution(threads: int) -> None:
    x, weight = operand(image(2, 8, 9, 9), "relu"), torch.randn(24, 8, 3, 3)
    made = []
    for held in (PAST, THROUGH):
        _kernels.caches_hold(held)
        made.append(passes.conv2d(x, weight, None, (2, 2), (1, 1, 1, 1), (1, 1), torch.empty(2, 24)))
    assert torch.equal(*made)
