"""A convolution inside a chain that is neither depthwise nor pointwise.

PyTorch computes it, between images made whole by the passes of `home`, but for two kinds on the CPU. A 1×1
window at a stride is a pointwise convolution of every so many pixels: xception41's four of them took 52 ms of
a step in PyTorch (128², batch 16), and 42 so. A standard one has passes of its own where its output is wide
enough: the weights' gradient of a network's first, 3→32 at 224², takes 7.2 ms there and 12.0 in PyTorch.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ninefold.ops import backend, fallback, gradients
from ninefold.ops.operands import SLOPED, Gradient, Gradients, Operand, dense

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]

# Of an output, below which PyTorch is faster: the kernels take its rows one by one. Forward and backward at
# batch 16 and 3×3, 128→128 at 28² takes 69 ms in both, 256→256 at 14² 65 in PyTorch and 78 in them.
FEWEST_COLUMNS = 28


def forward(
    home: ModuleType,
    x: Operand,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    groups: int,
    moments: Tensor | None,
) -> Tensor:
    """Convolve an operand; the first two rows of `moments` take the output's mean and biased variance."""
    if _sparse(home, x, weight, stride, padding, groups):
        sampled: Tensor = home.pointwise(_every(x, stride), weight, bias, moments)
        return sampled
    wide = _width(x, weight, stride, padding, dilation)
    if not backend.on_gpu(x.z) and in_kernels(weight, groups, wide):
        convolved: Tensor = home.conv2d(x, weight, bias, stride, padding, dilation, moments)
        return convolved
    z = dense(fallback.convolve(made(home, x), weight, bias, stride, padding, dilation, groups))
    if moments is not None:
        home.moments(z, moments)
    return z


def backward(
    home: ModuleType,
    dz: Gradient,
    x: Operand,
    weight: Tensor,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    groups: int,
    needed: tuple[bool, bool],
) -> Gradients:
    """Gradients of the weight and of the operand, those of the two that are needed."""
    if _sparse(home, x, weight, stride, padding, groups):
        return _scattered(home, dz, x, weight, stride, needed)
    needs_weight, needs_input = needed
    ours = not backend.on_gpu(x.z) and in_kernels(weight, groups, dz.arrived.shape[3])
    if ours and not (needs_input and max(stride) > 1):
        own: Gradients = home.conv2d_backward(dz, x, weight, stride, padding, dilation, needed)
        return own
    arrived = dz.arrived if dz.turn is None else home.turn(dz)
    along, weights, _ = gradients.convolution(
        arrived,
        made(home, x) if needs_weight else x.z,
        weight,
        None,
        *(stride, padding, dilation, groups),
        (needs_input, needs_weight, False),
    )
    return Gradients(weights, *_reduced(home, x, along))


def in_kernels(weight: Tensor, groups: int, width: int) -> bool:
    """Whether the CPU's kernels take a standard convolution whose output has so many columns."""
    return groups == 1 and weight.shape[2:] != (1, 1) and width >= FEWEST_COLUMNS


def _width(x: Operand, weight: Tensor, stride: Pair, padding: Sides, dilation: Pair) -> int:
    left, right, *_ = padding
    return (x.z.shape[3] + left + right - dilation[1] * (weight.shape[3] - 1) - 1) // stride[1] + 1


def made(home: ModuleType, x: Operand) -> Tensor:
    """The operand's values."""
    whole: Tensor = x.z if x.numbers is None else home.apply(x)
    return whole


def _sparse(home: ModuleType, x: Operand, weight: Tensor, stride: Pair, padding: Sides, groups: int) -> bool:
    outputs, inputs, *window = weight.shape
    few = min(outputs, inputs) < getattr(home, "FEWEST_CHANNELS", 1)
    # A smooth activation's slope belongs to every pixel, also to those that are left out.
    plain = window == [1, 1] and not any(padding) and groups == 1 and x.activation not in SLOPED
    # Without a stride it is PyTorch that is wanted: `home` has a pass of its own.
    strided = max(stride) > 1
    return x.z.is_cpu and strided and plain and not few


def _every(x: Operand, stride: Pair) -> Operand:
    """Every so many pixels of an operand."""
    return Operand(dense(x.z[:, :, :: stride[0], :: stride[1]]), x.numbers, x.activation)


def _scattered(
    home: ModuleType, dz: Gradient, x: Operand, weight: Tensor, stride: Pair, needed: tuple[bool, bool]
) -> Gradients:
    made: Gradients = home.pointwise_backward(dz, _every(x, stride), weight, needed)
    along = None
    if made.input is not None:
        along = torch.zeros_like(x.z)
        along[:, :, :: stride[0], :: stride[1]] = made.input
    return Gradients(made.weight, *_reduced(home, x, along))


def _reduced(home: ModuleType, x: Operand, along: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    if along is None or x.numbers is None:
        return None if along is None else dense(along), None
    reduced: tuple[Tensor, Tensor] = home.reduce(x, dense(along))
    return reduced
