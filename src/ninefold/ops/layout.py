"""Which memory format an output has: the input's, decided by one rule for real and for traced tensors."""

from __future__ import annotations

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
