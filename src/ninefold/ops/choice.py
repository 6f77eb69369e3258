"""What PyTorch is quicker at on the CPU than the kernels, and how it is asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ninefold.ops import cpu, fallback
from ninefold.ops.layout import output_shape

_HEAVY = 2**18  # weights, from which PyTorch would rather have an image of few pixels in planes


def quicker_in_pytorch(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
) -> bool:
    """Whether PyTorch's standard or pointwise convolution is quicker on the CPU than ours, which packs."""
    batch, _, rows, columns = output_shape(x.shape, weight.shape, stride, padding, dilation)
    return not cpu.worthwhile(batch * rows * columns, weight)


def few_pixels(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str | None,
) -> torch.Tensor:
    """PyTorch's standard convolution where it is quicker, in the layout that it is quicker in.

    It turns the weights into the image's layout at each call, and many weights outweigh few pixels: with
    channels last 320→320, 7×7 at 7×7 took 142 ms, the image in planes 27.
    """
    image = x.contiguous() if weight.numel() >= _HEAVY else x
    return cpu.like(x, fallback.conv2d(image, weight, bias, stride, padding, dilation, groups, activation))


def made_for(x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], dilation: Sequence[int]) -> bool:
    """Whether there is a depthwise kernel for this filter on the CPU, quicker than PyTorch's."""
    return cpu.made_for(weight, x.shape[1], stride, dilation)
