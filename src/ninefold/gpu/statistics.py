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


@triton.jit
def merge_kernel(
    out, partial, counts, out_counts, tiles, channels, GROUP: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Mean and M2 of a group of tiles: partial (tiles, 2, channels) → out (groups, 2, channels)."""
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
    into = group.to(tl.int64) * 2 * channels + c
    tl.store(out + into, pivot + shift, mask=c < channels)
    tl.store(out + into + channels, spread, mask=c < channels)
    if tl.program_id(1) == 0:
        tl.store(out_counts + group, whole)


@triton.jit
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
def store_moments(partial, tile, tiles, values, masks, count, channels, c, TILES: tl.constexpr):
    """Write the mean and M2 of a tuple of TILES tiles (lanes, channels), which hold `count` pixels."""
    total = tl.zeros(c.shape, tl.float32)
    for k in tl.static_range(TILES):
        total += tl.sum(tl.where(masks[k], values[k], 0.0), 0)
    mean = total / count
    spread = tl.zeros(c.shape, tl.float32)
    for k in tl.static_range(TILES):
        away = tl.where(masks[k], values[k] - mean[None, :], 0.0)
        spread += tl.sum(away * away, 0)
    into = partial + tile.to(tl.int64) * 2 * channels + c
    tl.store(into, mean, mask=c < channels)
    tl.store(into + channels, spread, mask=c < channels)
    tl.store(partial + tiles.to(tl.int64) * 2 * channels + tile, count)


@triton.jit
def store_sums(partial, tile, values, arounds, masks, channels, c, TILES: tl.constexpr):
    """Write Σ g and Σ g·(z - mean) of a tuple of TILES tiles (lanes, channels)."""
    total, moment = tl.zeros(c.shape, tl.float32), tl.zeros(c.shape, tl.float32)
    for k in tl.static_range(TILES):
        g = tl.where(masks[k], values[k], 0.0)
        total += tl.sum(g, 0)
        moment += tl.sum(g * tl.where(masks[k], arounds[k], 0.0), 0)
    into = partial + tile.to(tl.int64) * 2 * channels + c
    tl.store(into, total, mask=c < channels)
    tl.store(into + channels, moment, mask=c < channels)


def room_for_moments(tiles: int, channels: int, like: Tensor) -> Tensor:
    """Where a kernel writes what `moments` reads: (tiles, 2, channels), then one count per tile."""
    return torch.empty(tiles * (2 * channels + 1), dtype=torch.float32, device=like.device)


def room_for_sums(tiles: int, channels: int, like: Tensor) -> Tensor:
    """Where a kernel writes what `total` reads: (tiles, 2·channels)."""
    return torch.empty((tiles, 2 * channels), dtype=torch.float32, device=like.device)


def moments(partial: Tensor, tiles: int, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, from a room for moments."""
    counts, partial = partial[tiles * 2 * channels :], partial[: tiles * 2 * channels]
    block = launch.power(channels, 16, 32)
    while True:
        groups = launch.blocks(tiles, _GROUP)
        merged = partial.new_empty((groups, 2, channels))
        merged_counts = counts.new_empty(groups)
        grid = groups, launch.blocks(channels, block)
        sizes = {"GROUP": _GROUP, "BLOCK_C": block}
        launch.run(
            merge_kernel,
            grid,
            merged,
            partial,
            counts,
            merged_counts,
            tiles,
            channels,
            config=_MERGE,
            **sizes,
        )
        partial, counts, tiles = merged, merged_counts, groups
        if tiles == 1:
            return partial[0, 0], partial[0, 1] / counts


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
