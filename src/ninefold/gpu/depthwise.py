"""Depthwise convolution in Triton.

out[n, y, x, c] = Σ[i, j] weight[c, i, j] · in[n, y·s + i·d - top, x·s + j·d - left, c]

Images are channels-last, weights (taps, C). One program makes tiles of LANES_Y×LANES_X patches of one image
for a block of channels, one after another; how many channels a thread holds, 2 to 8, is lanes × channels over
threads. A program that reduces makes several tiles, so that partial results stay few. The same kernel makes
the input gradient (`patch.py`), reads images raw or normalised, and ends with scale, shift, activation and
residual, or with the output's moments, or with batch-norm's two sums.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ninefold.gpu import launch, statistics
from ninefold.gpu.language import existing, finished, row, sloped, widened
from ninefold.gpu.launch import Config
from ninefold.gpu.patch import sums
from ninefold.gpu.statistics import end_moments, end_sums, middle
from ninefold.gpu.window import Window

_PROGRAMS = 132 * 32  # as many as a kernel that reduces shall at least have
_MOST_TILES = 16  # of one program


@triton.jit(do_not_specialize=launch.EXTENTS)
def depthwise_kernel(
    out,
    image,
    beside,
    numbers,
    turn,
    weight,
    scale,
    shift,
    residual,
    below,
    below_numbers,
    partial,
    height,
    width,
    out_height,
    out_width,
    tiles_y,
    tiles_x,
    tiles,
    share,
    READ: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ENDING: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
    SIGN: tl.constexpr,
    OUT_Y: tl.constexpr,
    IN_Y: tl.constexpr,
    BEFORE_Y: tl.constexpr,
    DILATION_Y: tl.constexpr,
    FIRST_Y: tl.constexpr,
    LAST_Y: tl.constexpr,
    PATCH_Y: tl.constexpr,
    OUT_X: tl.constexpr,
    IN_X: tl.constexpr,
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
    """A share of the tiles, for a block of channels."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    lane = tl.arange(0, LANES_Y * LANES_X)
    begin = tl.program_id(0) * share
    pivot, seen = tl.zeros((BLOCK_C,), tl.float32), 0.0
    first = tl.zeros((LANES_Y * LANES_X, BLOCK_C), tl.float32)
    second = tl.zeros((LANES_Y * LANES_X, BLOCK_C), tl.float32)
    for tile in range(begin, tl.minimum(begin + share, tiles)):
        tile_x, tile_y, n = tile % tiles_x, tile // tiles_x % tiles_y, tile // tiles_x // tiles_y
        y = (tile_y * LANES_Y + lane // LANES_X) * PATCH_Y
        x = (tile_x * LANES_X + lane % LANES_X) * PATCH_X
        start = n.to(tl.int64) * height * width * CHANNELS
        made = sums(
            image + start,
            image if beside is None else beside + start,
            numbers,
            turn,
            weight,
            y,
            x,
            (y < out_height) & (x < out_width),
            height,
            width,
            CHANNELS,
            c,
            READ,
            TALL,
            WIDE,
            SIGN,
            OUT_Y,
            IN_Y,
            BEFORE_Y,
            DILATION_Y,
            FIRST_Y,
            LAST_Y,
            PATCH_Y,
            OUT_X,
            IN_X,
            BEFORE_X,
            DILATION_X,
            FIRST_X,
            LAST_X,
            PATCH_X,
        )
        start = n.to(tl.int64) * out_height * out_width * CHANNELS
        corner = start + (((y * out_width + x) * CHANNELS)[:, None] + c[None, :])
        values, masks = (), ()
        for r in tl.static_range(PATCH_Y):
            for q in tl.static_range(PATCH_X):
                mask = existing((y + r < out_height) & (x + q < out_width), c, CHANNELS)
                down = corner + r * out_width * CHANNELS
                value = made[r * PATCH_X + q]
                around = value
                if ENDING == "sums":
                    z = widened(tl.load(below + down + q * CHANNELS, mask=mask, other=0.0))
                    around = z - row(below_numbers, 0, CHANNELS, c)[None, :]
                    before = row(below_numbers, 2, CHANNELS, c)[None, :] * around
                    before += row(below_numbers, 3, CHANNELS, c)[None, :]
                    value = sloped(value, before, ACTIVATION)
                else:
                    value = finished(value, scale, shift, CHANNELS, c, ACTIVATION)
                if residual is not None:
                    value += widened(tl.load(residual + down + q * CHANNELS, mask=mask, other=0.0))
                value = value.to(out.dtype.element_ty)
                tl.store(out + down + q * CHANNELS, value, mask=mask)
                value = widened(value)
                if ENDING == "sums":
                    first += tl.where(mask, value, 0.0)
                    second += tl.where(mask, value * around, 0.0)
                elif ENDING == "moments":
                    values = values + (value,)
                    masks = masks + (mask,)
        if ENDING == "moments":
            rows = tl.minimum(out_height - tile_y * LANES_Y * PATCH_Y, LANES_Y * PATCH_Y)
            columns = tl.minimum(out_width - tile_x * LANES_X * PATCH_X, LANES_X * PATCH_X)
            count = (rows * columns).to(tl.float32)
            if tile == begin:
                pivot = middle(values, masks, PATCH_Y * PATCH_X, count)
            seen += count
            for k in tl.static_range(PATCH_Y * PATCH_X):
                away = tl.where(masks[k], values[k] - pivot[None, :], 0.0)
                first += away
                second += away * away
    if ENDING == "moments":
        end_moments(partial, tl.program_id(0), tl.num_programs(0), pivot, first, second, seen, CHANNELS, c)
    elif ENDING == "sums":
        end_sums(partial, tl.program_id(0), first, second, CHANNELS, c)


def configs(
    window: Window, size: tuple[int, int], channels: int, *, reads: bool = False, backward: bool = False
) -> list[Config]:
    """Block sizes worth a try for an output of `size`, the first of them the one to take untried.

    `reads` where images are normalised, or gradients turned, as they are read.
    """
    stride = window.stride if backward else (1, 1)
    # A patch, and the channels a thread holds of it. The larger both, the fewer instructions an output takes,
    # but the more registers: 3×3 forward in training 71 and 118 in patches of 2×4 with two channels, 58 and
    # 190 with four, 57 and 149 in patches of 4×4, and on an H200 the fewest registers are fastest. Without
    # numbers, which take 80 and 112, 4×4 is: 32 channels at 112² 68 µs, and 85 in patches of 2×4. Wide
    # windows unroll far: 5×5 in patches of 4×4 takes 15 s to compile, 7×7 in patches of 1×8 minutes.
    light, plain = [((2, 4), 2)], [((4, 4), 2), ((2, 4), 4)]
    shapes = light if max(window.kernel) > 3 or reads else plain
    found = []
    for (rows, columns), held in shapes:
        # Patches of an input gradient begin on the stride's grid.
        patch = launch.blocks(rows, stride[0]) * stride[0], launch.blocks(columns, stride[1]) * stride[1]
        block = launch.power(channels, 16, 64)
        lanes = 128 * held // block
        across = launch.power(launch.blocks(size[1], patch[1]), 1, 8 if lanes >= 16 else 4)
        across = min(across, lanes)
        found.append(Config(patch=patch, lanes=(lanes // across, across), channels=block, warps=4))
    return list(dict.fromkeys(found))


def depthwise(
    x: Tensor,
    weight: Tensor,
    window: Window,
    size: tuple[int, int],
    *,
    config: Config,
    backward: bool = False,
    read: str | None = None,
    numbers: Tensor | None = None,
    beside: Tensor | None = None,
    turn: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    moments: Tensor | None = None,
    below: Tensor | None = None,
    below_numbers: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Filter `x` (batch, C, H, W), dense channels-last, with `weight` (taps, C); return (batch, C, *size).

    Backward `x` is the gradient that arrives and the result that of the input. An image is read as
    `language.read` says. The result is activation(scale·sum + shift) + residual. The first two rows of
    `moments` take the mean and the biased variance of each channel. With `below`, the raw image whose
    gradient this is, the result is behind that image's activation and comes with the two sums (2, C).
    """
    batch, channels, height, width = x.shape
    out = launch.image((batch, channels, *size), x)
    blocks = launch.blocks(channels, config.channels)
    tiles_y, tiles_x, tiles = launch.tiles(batch, size, config)
    share, ending, partial = 1, None, None
    if moments is not None or below is not None:
        share = max(1, min(_MOST_TILES, tiles * blocks // _PROGRAMS))
        ending = "sums" if moments is None else "moments"
        room = statistics.room_for_sums if moments is None else statistics.room_for_moments
        partial = room(launch.blocks(tiles, share), channels, x)
    programs = launch.blocks(tiles, share)
    launch.run(
        depthwise_kernel,
        (programs, blocks),
        *(out, x, beside, numbers, turn, weight, scale, shift, residual, below, below_numbers, partial),
        *(height, width, *size, tiles_y, tiles_x, tiles, share),
        config=config,
        READ=read,
        ACTIVATION=activation,
        ENDING=ending,
        LANES_Y=config.lanes[0],
        LANES_X=config.lanes[1],
        BLOCK_C=config.channels,
        CHANNELS=channels,
        **window.constants(config.patch, backward=backward),
    )
    if partial is None:
        return out, None
    if moments is not None:
        statistics.moments(partial, programs, channels, moments)
        return out, None
    return out, statistics.total(partial).view(2, channels)


def taps_first(weight: Tensor) -> Tensor:
    """The weights (C, 1, kh, kw) as the kernels read them: (taps, C), float32, so that none widens them."""
    taps = weight.detach().reshape(weight.shape[0], -1).t()
    return torch.empty(taps.shape, dtype=torch.float32, device=taps.device).copy_(taps)
