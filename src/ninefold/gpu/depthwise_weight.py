"""The gradient of depthwise weights in Triton.

dw[c, i, j] = Σ[n, y, x] g[n, y, x, c] · in[n, y·s + i·d - top, x·s + j·d - left, c]

Each program sums one share of the patches for a block of channels, one accumulator per tap and lane, and
writes one row; rows are added in their order (`statistics.total`), so that runs repeat. A value read is used
by every output of its patch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ninefold.gpu import launch, statistics
from ninefold.gpu.language import existing, read, within
from ninefold.gpu.launch import Config
from ninefold.gpu.window import Window

_SHARES = 132 * 8  # programs for the whole device; more would write more rows than they save time


@triton.jit(do_not_specialize=launch.EXTENTS)
def depthwise_weight_kernel(
    out,
    gradient,
    beside,
    gradient_numbers,
    turn,
    image,
    image_numbers,
    height,
    width,
    out_height,
    out_width,
    tiles_y,
    tiles_x,
    tiles,
    share,
    READ: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    OUT_Y: tl.constexpr,
    BEFORE_Y: tl.constexpr,
    DILATION_Y: tl.constexpr,
    FIRST_Y: tl.constexpr,
    LAST_Y: tl.constexpr,
    PATCH_Y: tl.constexpr,
    OUT_X: tl.constexpr,
    BEFORE_X: tl.constexpr,
    DILATION_X: tl.constexpr,
    FIRST_X: tl.constexpr,
    LAST_X: tl.constexpr,
    PATCH_X: tl.constexpr,
    LANES_Y: tl.constexpr,
    LANES_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One share of the patches, for a block of channels: a row of partial sums."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    lane = tl.arange(0, LANES_Y * LANES_X)
    sums = ()
    for _ in tl.static_range(TALL * WIDE):
        sums = sums + (tl.zeros((LANES_Y * LANES_X, BLOCK_C), tl.float32),)
    begin = tl.program_id(0) * share
    for tile in range(begin, tl.minimum(begin + share, tiles)):
        tile_x, tile_y, n = tile % tiles_x, tile // tiles_x % tiles_y, tile // tiles_x // tiles_y
        y = (tile_y * LANES_Y + lane // LANES_X) * PATCH_Y
        x = (tile_x * LANES_X + lane % LANES_X) * PATCH_X
        live = (y < out_height) & (x < out_width)
        start = n.to(tl.int64) * out_height * out_width * CHANNELS
        corner = start + (((y * out_width + x) * CHANNELS)[:, None] + c[None, :])
        along = ()
        for r in tl.static_range(PATCH_Y):
            for q in tl.static_range(PATCH_X):
                mask = existing((y + r < out_height) & (x + q < out_width), c, CHANNELS)
                at = gradient + (corner + r * out_width * CHANNELS)
                near = at if beside is None else beside + (corner + r * out_width * CHANNELS)
                g = read(at, near, q * CHANNELS, mask, gradient_numbers, turn, CHANNELS, c, None)
                along = along + (g,)
        start = n.to(tl.int64) * height * width * CHANNELS
        base_y, base_x = tl.where(live, y * OUT_Y, 1 << 30), x * OUT_X
        corner = start + (((y * OUT_Y * width + base_x) * CHANNELS)[:, None] + c[None, :])
        for a in tl.static_range(FIRST_Y, LAST_Y):
            inside_y = within(base_y + a, height)
            at = image + (corner + a * width * CHANNELS)
            values = ()
            for b in tl.static_range(FIRST_X, LAST_X):
                mask = existing(inside_y & within(base_x + b, width), c, CHANNELS)
                value = read(at, at, b * CHANNELS, mask, image_numbers, None, CHANNELS, c, READ)
                values = values + (value,)
            more = ()
            for i in tl.static_range(TALL):
                for j in tl.static_range(WIDE):
                    total = sums[i * WIDE + j]
                    for r in tl.static_range(PATCH_Y):
                        if r * OUT_Y + i * DILATION_Y - BEFORE_Y == a:
                            for q in tl.static_range(PATCH_X):
                                # A name for this index would make a tensor of it.
                                value = values[q * OUT_X + j * DILATION_X - BEFORE_X - FIRST_X]
                                total += along[r * PATCH_X + q] * value
                    more = more + (total,)
            sums = more
    into = out + tl.program_id(0).to(tl.int64) * TALL * WIDE * CHANNELS + c
    for k in tl.static_range(TALL * WIDE):
        tl.store(into + k * CHANNELS, tl.sum(sums[k], 0), mask=c < CHANNELS)


def configs(window: Window, size: tuple[int, int], channels: int) -> list[Config]:
    """Block sizes worth a try, the first of them the one to take untried."""
    # Channels that a thread holds of a patch of 2×4, each with an accumulator per tap: 3×3 in training takes
    # 71 instructions an output with two of them, 54 with four, but 188 registers for 115 (144 channels at 56²
    # and stride 2 take 207 µs and 321 on an H200); 82 in patches of 1×4.
    held = 2 if window.taps <= 9 else 1
    block = launch.power(channels, 16, 64)
    lanes = 128 * held // block
    across = min(launch.power(launch.blocks(size[1], 4), 1, 4), lanes)
    return [Config(patch=(2, 4), lanes=(lanes // across, across), channels=block, warps=4)]


def depthwise_weight(
    gradient: Tensor,
    x: Tensor,
    window: Window,
    *,
    config: Config,
    read: str | None = None,
    numbers: Tensor | None = None,
    beside: Tensor | None = None,
    gradient_numbers: Tensor | None = None,
    turn: Tensor | None = None,
) -> Tensor:
    """The gradient (C, 1, kh, kw), float32, from that of the output and the input, both dense channels-last.

    `read` and `numbers` say how `x` is read, `beside`, `gradient_numbers` and `turn` how the gradient is.
    """
    batch, channels, height, width = x.shape
    size = gradient.shape[2], gradient.shape[3]
    tiles_y, tiles_x, tiles = launch.tiles(batch, size, config)
    blocks = launch.blocks(channels, config.channels)
    share = launch.blocks(tiles, max(1, _SHARES // blocks))
    shares = launch.blocks(tiles, share)
    partial = torch.empty((shares, window.taps * channels), dtype=torch.float32, device=x.device)
    constants = window.constants(config.patch)
    for name in ("SIGN", "IN_Y", "IN_X"):
        constants.pop(name)
    launch.run(
        depthwise_weight_kernel,
        (shares, blocks),
        *(partial, gradient, beside, gradient_numbers, turn, x, numbers),
        *(height, width, *size, tiles_y, tiles_x, tiles, share),
        config=config,
        READ=read,
        LANES_Y=config.lanes[0],
        LANES_X=config.lanes[1],
        BLOCK_C=config.channels,
        CHANNELS=channels,
        **constants,
    )
    summed = statistics.total(partial).view(window.taps, channels)
    return summed.t().contiguous().view(channels, 1, *window.kernel)
