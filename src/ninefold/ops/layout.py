"""The size of an output, and its memory format: the input's, by one rule for real and for traced tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def memory_format(x: torch.Tensor) -> torch.memory_format:
    """Return channels_last if `x` (batch, C, H, W) is laid out so, else contiguous.

    Where the strides of both formats coincide (one channel, one pixel) it is contiguous. A view that is
    neither dense counts as channels_last if its strides are in that order.
    """
    if x.is_contiguous():
        return torch.contiguous_format
    if x.is_contiguous(memory_format=torch.channels_last) or _ordered_channels_last(x):
        return torch.channels_last
    return torch.contiguous_format


def _ordered_channels_last(x: torch.Tensor) -> bool:
    channels = x.shape[1]
    batch_step, channel_step, row_step, pixel_step = x.stride()
    return bool(
        channels > 1
        and channel_step == 1
        and pixel_step >= channels
        and row_step >= pixel_step
        and batch_step >= row_step
    )


def output_shape(
    x: Sequence[int],
    weight: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int, int, int]:
    """The shape (batch, N, H', W') of a convolution's output, of those of image and weight."""
    batch, _, height, width = x
    out_channels, _, tall, wide = weight
    left, right, top, bottom = padding
    rows = (height + top + bottom - (tall - 1) * dilation[0] - 1) // stride[0] + 1
    columns = (width + left + right - (wide - 1) * dilation[1] - 1) // stride[1] + 1
    return batch, out_channels, rows, columns
