"""What PyTorch is quicker at on the CPU than the kernels, and how it is asked.

The functions are named as the operators; they take shapes, and say whether the call is PyTorch's. Their
numbers are from the grid of `benchmarks/cliffs.py`, one Zen 4 core.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import gcd, prod

import torch

from ninefold.ops import cpu, fallback
from ninefold.ops.layout import output_shape

Numbers = tuple[int, ...]

_FEW, _LARGE = 32, 8000  # pixels of the result
# Multiplications from which on PyTorch is quicker at a depthwise filter that a larger one's kernel makes, at
# stride 1 and at stride 2.
_MUCH = 2**20, 2**19
_HEAVY, _HEAVY_MATRIX = 2**19, 2**15  # weights, of a standard convolution and of a pointwise one
# Multiplications that PyTorch does in the time by which its call takes longer than the kernels'.
_SLIGHT = 2**17


@lru_cache(4096)
def conv2d(x: Numbers, weight: Numbers, stride: Numbers, padding: Numbers, dilation: Numbers) -> bool:
    """Where packing the weights of groups, or of 1×1 at a stride, outweighs what is done with them.

    Other weights are not packed for few pixels. 960→960, 1×1 at stride 2 on one pixel: 0.17 ms, PyTorch 0.08.
    """
    batch, _, rows, columns = output_shape(x, weight, stride, padding, dilation)
    pixels = batch * rows * columns
    if weight[1] == x[1] and weight[2] == weight[3] == 1:
        return pixels == 1 and prod(weight) >= _HEAVY_MATRIX
    return weight[1] < x[1] and pixels < _FEW and prod(weight) >= _HEAVY


@lru_cache(4096)
def depthwise_conv2d(
    x: Numbers, weight: Numbers, stride: Numbers, padding: Numbers, dilation: Numbers
) -> bool:
    """Where there is no kernel for this filter alone, but the one for all, and enough to do.

    Even filters are made by the kernels of the next size: 4×4 on 96 channels of 56×56 161 µs against 133, at
    stride 2 on 24 of 112×112 121 against 96, on 32 of 28×28 34 against 42; 6×6 at stride 2 on 32 of 56×56
    took 60 or 96 by what else was in the library, PyTorch 65. 1×1 at stride 2 on 320 channels of 112×112
    takes PyTorch 0.53 instead of 0.85 ms.
    """
    (batch, channels, _, _), (outputs, _, height, width) = x, weight
    if outputs > channels or outputs <= 8:
        return False
    square = height == width and stride[0] == stride[1] and dilation[0] == dilation[1]
    undilated = stride[0] // gcd(stride[0], dilation[0])
    _, _, rows, columns = output_shape(x, weight, stride, padding, dilation)
    pixels = batch * rows * columns
    if square and height <= 7 and undilated in (1, 2):
        slight = stride[0] == dilation[0] == 1 and (height == 1 or (height == 2 and outputs <= 144))
        if slight or height in (3, 5, 7):
            return False
        if dilation[0] > 1:
            return rows * columns >= _LARGE
        return pixels * prod(weight) >= _MUCH[undilated - 1]
    return outputs >= 16 and pixels >= _FEW and pixels * prod(weight) >= _SLIGHT


@lru_cache(4096)
def pointwise_conv2d(x: Numbers, weight: Numbers) -> bool:
    """Where packing the weights outweighs what is done with them, or there is hardly anything to add up.

    960→960 at one pixel: 0.19 ms, PyTorch 0.07.
    """
    (batch, inputs, rows, columns), outputs = x, weight[0]
    pixels = batch * rows * columns
    slight = inputs == 1 or (inputs < 8 and outputs < 3)
    return slight or (pixels < 2 * _FEW and prod(weight) >= _HEAVY_MATRIX)


def in_planes(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str | None,
) -> torch.Tensor:
    """PyTorch's standard convolution in the layout that it is quicker in for few pixels and many weights.

    It turns the weights into the image's layout at each call: with channels last 320→320, 7×7 at 7×7 took
    142 ms, the image in planes 27.
    """
    image = cpu.laid_out(x, torch.contiguous_format)
    return fallback.conv2d(image, weight, bias, stride, padding, dilation, groups, activation)
