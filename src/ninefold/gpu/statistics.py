"""Reductions over an image's pixels, one result per channel: always in the same order, so that runs repeat.

A kernel writes, for each of its tiles, two numbers per channel: mean and M2 = Σ (z - mean)² with the number
of pixels, or two sums. Groups of tiles are merged until one is left; means by Chan, Golub and LeVeque (1979),
so that no large sum of squares loses what is wanted.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ninefold.gpu import launch
from ninefold.gpu.launch import Config

_GROUP = 128  # tiles merged by one program
_MERGE = Config(warps=4)


@triton.jit(do_not_specialize=["tiles", "channels"])
def merge_kernel(
    out,
    partial,
    counts,
    out_counts,
    tiles,
    channels,
    LAST: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Mean and M2 of a group of tiles: partial (tiles, 2, channels) → out (groups, 2, channels).

    The last group's M2 leaves as the biased variance.
    """
    group = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    t = group * GROUP + tl.arange(0, GROUP)
    mask = (t < tiles)[:, None] & (c < channels)[None, :]
    count = tl.load(counts + t, mask=t < tiles, other=0.0)
    offsets = t.to(tl.int64)[:, None] * 2 * channels + c[None, :]
    mean = tl.load(partial + offsets, mask=mask, other=0.0)
    spread = tl.load(partial + offsets + channels, mask=mask, other=0.0)
    whole = tl.sum(count, 0)
    pivot = tl.load(partial + group.to(tl.int64) * GROUP * 2 * channels + c, mask=c < channels, other=0.0)
    away = tl.where(mask, mean - pivot[None, :], 0.0)
    shift = tl.sum(away * count[:, None], 0) / whole
    left = tl.where(mask, away - shift[None, :], 0.0)
    spread = tl.sum(spread + left * left * count[:, None], 0)
    if LAST:
        spread = spread / whole
    into = group.to(tl.int64) * 2 * channels + c
    tl.store(out + into, pivot + shift, mask=c < channels)
    tl.store(out + into + channels, spread, mask=c < channels)
    if tl.program_id(1) == 0:
        tl.store(out_counts + group, whole)


@triton.jit(do_not_specialize=["tiles", "width"])
def sum_kernel(out, partial, tiles, width, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    """Sums of groups of rows: partial (tiles, width) → out (groups, width)."""
    group = tl.program_id(0)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    t = group * GROUP + tl.arange(0, GROUP)
    mask = (t < tiles)[:, None] & (c < width)[None, :]
    value = tl.load(partial + t.to(tl.int64)[:, None] * width + c[None, :], mask=mask, other=0.0)
    total = tl.sum(value.to(tl.float32), 0)
    tl.store(out + group.to(tl.int64) * width + c, total.to(out.dtype.element_ty), mask=c < width)


@triton.jit
def end_moments(partial, program, programs, pivot, first, second, count, channels, c):
    """Write a program's mean and M2 from tiles (lanes, channels) of Σ (z - pivot) and Σ (z - pivot)²."""
    # One division: each would be a dozen instructions and a slow path, for every channel of every program.
    shift = tl.sum(first, 0) * (1.0 / count)
    spread = tl.sum(second, 0) - shift * shift * count
    into = partial + program.to(tl.int64) * 2 * channels + c
    tl.store(into, pivot + shift, mask=c < channels)
    # Rounding must not make it negative; NaN shall stay.
    tl.store(into + channels, tl.where(spread < 0, 0.0, spread), mask=c < channels)
    tl.store(partial + programs.to(tl.int64) * 2 * channels + program, count)


@triton.jit
def end_sums(partial, program, total, moment, channels, c):
    """Write a program's Σ g and Σ g·(z - mean) from tiles (lanes, channels) of both."""
    into = partial + program.to(tl.int64) * 2 * channels + c
    tl.store(into, tl.sum(total, 0), mask=c < channels)
    tl.store(into + channels, tl.sum(moment, 0), mask=c < channels)


@triton.jit
def middle(values, masks, TILES: tl.constexpr, count):
    """The mean per channel of a tuple of TILES tiles (lanes, channels): a pivot for what follows."""
    total = tl.sum(tl.where(masks[0], values[0], 0.0), 0)
    for k in tl.static_range(1, TILES):
        total += tl.sum(tl.where(masks[k], values[k], 0.0), 0)
    return total * (1.0 / count)


def room_for_moments(tiles: int, channels: int, like: Tensor) -> Tensor:
    """Where a kernel writes what `moments` reads: (tiles, 2, channels), then one count per tile."""
    return torch.empty(tiles * (2 * channels + 1), dtype=torch.float32, device=like.device)


def room_for_sums(tiles: int, channels: int, like: Tensor) -> Tensor:
    """Where a kernel writes what `total` reads: (tiles, 2·channels)."""
    return torch.empty((tiles, 2 * channels), dtype=torch.float32, device=like.device)


def moments(partial: Tensor, tiles: int, channels: int, into: Tensor) -> None:
    """Write each channel's mean and biased variance into the first two rows of `into`, from such a room."""
    counts, partial = partial[tiles * 2 * channels :], partial[: tiles * 2 * channels]
    block = launch.power(channels, 16, 32)
    while True:
        groups = launch.blocks(tiles, _GROUP)
        last = groups == 1
        merged = into if last else partial.new_empty((groups, 2, channels))
        merged_counts = counts.new_empty(groups)
        grid = groups, launch.blocks(channels, block)
        given = (merged, partial, counts, merged_counts, tiles, channels)
        sizes = {"LAST": last, "GROUP": _GROUP, "BLOCK_C": block}
        launch.run(merge_kernel, grid, *given, config=_MERGE, **sizes)
        if last:
            return
        partial, counts, tiles = merged, merged_counts, groups


def total(partial: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The sum of the rows of `partial` (rows, width), in their order."""
    rows, width = partial.shape
    block = launch.power(width, 16, 64)
    while True:
        groups = launch.blocks(rows, _GROUP)
        last = groups == 1
        summed = torch.empty((groups, width), dtype=dtype if last else torch.float32, device=partial.device)
        grid = groups, launch.blocks(width, block)
        launch.run(sum_kernel, grid, summed, partial, rows, width, config=_MERGE, GROUP=_GROUP, BLOCK=block)
        if last:
            return summed[0]
        partial, rows = summed, groups
