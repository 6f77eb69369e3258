"""What an operator does with the tensors of one call: the backend that takes it, and the way there.

Arguments are those of `ninefold.ops`, checked and resolved: stride and dilation (h, w), padding (left, right,
top, bottom). Called by PyTorch's dispatcher (`library.py`), and without it where nobody looks on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from ninefold.ops import backend, choice, cpu, fallback, layout


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str | None,
) -> torch.Tensor:
    """Return activation(conv(x) + bias)."""
    geometry, leaves = (tuple(stride), tuple(padding), tuple(dilation)), False
    if _may_leave(x):
        if groups == 1 and weight.shape[2:] == (1, 1) and geometry[:2] == ((1, 1), (0, 0, 0, 0)):
            return pointwise_conv2d(x, weight, bias, activation, None)
        leaves = choice.conv2d(x.shape, weight.shape, *geometry)
    if leaves:
        run = choice.in_planes
    else:
        kernels = backend.for_call(x, weight, _largest(x.shape, weight.shape, *geometry))
        run = kernels.conv2d if kernels else fallback.conv2d
    return cpu.like(x, run(x, weight, bias, *geometry, groups, activation))


def depthwise_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str | None,
) -> torch.Tensor:
    """Return activation(depthwise(x) + bias)."""
    geometry = tuple(stride), tuple(padding), tuple(dilation)
    run = fallback.depthwise_conv2d
    if not (_may_leave(x) and choice.depthwise_conv2d(x.shape, weight.shape, *geometry)):
        kernels = backend.for_call(x, weight, _largest(x.shape, weight.shape, *geometry))
        run = kernels.depthwise_conv2d if kernels else run
    return cpu.like(x, run(x, weight, bias, *geometry, activation))


def pointwise_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str | None,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    """Return activation(pointwise(x) + bias) + residual."""
    run = fallback.pointwise_conv2d
    if not (_may_leave(x) and choice.pointwise_conv2d(x.shape, weight.shape)):
        kernels = backend.for_call(x, weight, weight.shape[0] * x.shape[2] * x.shape[3])
        run = kernels.pointwise_conv2d if kernels else run
    return cpu.like(x, run(x, weight, bias, activation, residual))


def separable_conv2d(
    x: torch.Tensor,
    depthwise_weight: torch.Tensor,
    pointwise_weight: torch.Tensor,
    depthwise_bias: torch.Tensor | None,
    pointwise_bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    depthwise_activation: str | None,
    activation: str | None,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    """Return activation(pointwise(depthwise_activation(depthwise(x) + bias)) + bias) + residual."""
    stride, padding, dilation = tuple(stride), tuple(padding), tuple(dilation)
    window = depthwise_weight.shape[1:]
    images = [
        _largest(x.shape, (weight.shape[0], *window), stride, padding, dilation)
        for weight in (depthwise_weight, pointwise_weight)
    ]
    kernels = backend.for_call(x, pointwise_weight, depthwise_weight.numel(), *images)
    run = kernels.separable_conv2d if kernels else fallback.separable_conv2d
    out = run(
        x,
        depthwise_weight,
        pointwise_weight,
        depthwise_bias,
        pointwise_bias,
        stride,
        padding,
        dilation,
        depthwise_activation,
        activation,
        residual,
    )
    return cpu.like(x, out)


def _may_leave(x: torch.Tensor) -> bool:
    """Whether `choice` is asked about a call: PyTorch is on the CPU, unless the kernels are forced."""
    return x.is_cpu and not backend.on_gpu(x) and not cpu.is_forced()


@lru_cache(4096)
def _largest(
    x: Sequence[int],
    weight: Sequence[int],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> int:
    """How many numbers one image of the result has, or of what the kernels see of `x` if those are more."""
    _, channels, height, width = layout.output_shape(x, weight, stride, padding, dilation)
    return max(channels * height * width, backend.reach(x, stride, padding, dilation))
