"""Pointwise convolution in Triton: out[p, n] = Σ[c] weight[n, c] · in[p, c], a matrix product over pixels.

One program makes a tile of pixels × outputs, or several where it reduces, so that threads add up once; all
outputs where they fit, so that the image is read once. With the weights' two sides exchanged it makes the
input gradient. It reads and ends as the depthwise kernel does.
Float32 is multiplied in TF32 where PyTorch's convolutions are (`torch.backends.cudnn.allow_tf32`).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ninefold.gpu import launch, statistics
from ninefold.gpu.language import finished, product, read, row, sloped, widened
from ninefold.gpu.launch import Config
from ninefold.gpu.statistics import end_moments, end_sums, middle


@triton.jit
def halved(tile, PAIRED: tl.constexpr):
    """Sums of rows p and p + 8, which one thread holds of a matrix product, so nobody asks another.

    Unless PAIRED the tile as it is. Where two threads hold those rows, both have their sum afterwards, and
    Triton 3.6 and 3.7 then add one row twice and leave out another when all are added up (its pull request
    9219 mends that): means of float32 came out a tenth of a standard deviation off.
    """
    ROWS: tl.constexpr = tile.shape[0]
    COLUMNS: tl.constexpr = tile.shape[1]
    if PAIRED:
        tile = tl.sum(tl.reshape(tile, (ROWS // 16, 2, 8, COLUMNS)), 1)
        tile = tl.reshape(tile, (ROWS // 2, COLUMNS))
    return tile


@triton.jit
def folded(tile):
    """Sums of every 32nd row: of those that one thread holds of a tile that is loaded and stored."""
    ROWS: tl.constexpr = tile.shape[0]
    COLUMNS: tl.constexpr = tile.shape[1]
    return tl.sum(tl.reshape(tile, (ROWS // 32, 32, COLUMNS)), 0)


_PROGRAMS = 132 * 12  # as many as a kernel that reduces shall at least have


@triton.jit(do_not_specialize=launch.EXTENTS)
def pointwise_kernel(
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
    pixels,
    channels,
    outputs,
    tiles,
    share,
    step_output,
    step_channel,
    READ: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ENDING: tl.constexpr,
    PRECISION: tl.constexpr,
    PAIRED: tl.constexpr,
    DIVISOR: tl.constexpr,
    OUT_DIVISOR: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """A share of the tiles of pixels, for a block of outputs; programs of one share follow each other.

    On one axis of the grid: the others take 65,535 programs at most, which an image of 2048² exceeds.
    """
    channels, outputs = channels // DIVISOR * DIVISOR, outputs // OUT_DIVISOR * OUT_DIVISOR
    lane = tl.arange(0, BLOCK_P)
    across = tl.cdiv(outputs, BLOCK_N)
    program, programs = tl.program_id(0) // across, tl.num_programs(0) // across
    n = tl.program_id(0) % across * BLOCK_N + tl.arange(0, BLOCK_N)
    begin = program * share
    pivot, seen = tl.zeros((BLOCK_N,), tl.float32), 0.0
    ROWS: tl.constexpr = 32 if ENDING == "sums" else (BLOCK_P // 2 if PAIRED else BLOCK_P)
    first = tl.zeros((ROWS, BLOCK_N), tl.float32)
    second = tl.zeros((ROWS, BLOCK_N), tl.float32)
    for step in range(0, tl.minimum(share, tiles - begin)):
        # Only a tile's first pixel is a number of 64 bits.
        start = (begin + step).to(tl.int64) * BLOCK_P
        live = lane < tl.minimum(pixels - start, BLOCK_P).to(tl.int32)
        total = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
        for deep in range(0, channels, BLOCK_C):
            c = deep + tl.arange(0, BLOCK_C)
            mask = live[:, None] & (c < channels)[None, :]
            offsets = lane[:, None] * channels + c[None, :]
            at = image + start * channels
            if numbers is None:
                a = tl.load(at + offsets, mask=mask, other=0.0)
            else:
                near = at if beside is None else beside + start * channels
                value = read(at, near, offsets, mask, numbers, turn, channels, c, READ)
                a = value.to(image.dtype.element_ty)
            at_w = weight + c[:, None] * step_channel + n[None, :] * step_output
            w = tl.load(at_w, mask=(c < channels)[:, None] & (n < outputs)[None, :], other=0.0)
            total = product(a, w.to(a.dtype), total, PRECISION)
        mask = live[:, None] & (n < outputs)[None, :]
        offsets = lane[:, None] * outputs + n[None, :]
        start = start * outputs
        around = total
        if ENDING == "sums":
            z = widened(tl.load(below + start + offsets, mask=mask, other=0.0))
            around = z - row(below_numbers, 0, outputs, n)[None, :]
            before = row(below_numbers, 2, outputs, n)[None, :] * around
            value = sloped(total, before + row(below_numbers, 3, outputs, n)[None, :], ACTIVATION)
        else:
            value = finished(total, scale, shift, outputs, n, ACTIVATION)
        if residual is not None:
            value += widened(tl.load(residual + start + offsets, mask=mask, other=0.0))
        value = value.to(out.dtype.element_ty)
        tl.store(out + start + offsets, value, mask=mask)
        if ENDING == "moments":
            count = tl.sum(live.to(tl.float32), 0)
            value = widened(value)
            if step == 0:
                pivot = middle((value,), (mask,), 1, count)
            seen += count
            away = tl.where(mask, value - pivot[None, :], 0.0)
            first += halved(away, PAIRED)
            second += halved(away * away, PAIRED)
        elif ENDING == "sums":
            value = tl.where(mask, widened(value), 0.0)
            first += folded(value)
            second += folded(value * around)
    if ENDING == "moments":
        end_moments(partial, program, programs, pivot, first, second, seen, outputs, n)
    elif ENDING == "sums":
        end_sums(partial, program, first, second, outputs, n)


def configs(channels: int, outputs: int, *, reduces: bool = False) -> list[Config]:
    """Block sizes worth a try, the first of them the one to take untried; `reduces` with an ending."""
    deep = launch.power(channels, 16, 64)
    # Compiled for sm_90 with every reading and ending: 128×256 spills a kilobyte a thread, 64×128 leaves room
    # for three programs on a multiprocessor. Large tiles where the weights are read over and over. Narrow
    # layers (96→24 at 56² took 165 µs in tiles of 64 on an H200, its bytes 45) are held by instructions, a
    # fifth fewer a pixel in tiles of 128, and by how many programs find room, so they pipeline less. What
    # reduces holds two more tiles of sums, half as tall: 64×64 takes 228 registers then, 64×128 spills.
    if reduces:
        pixels, most, warps, stages = (128, 32, 4, 2) if outputs <= 32 else (64, 64, 4, 3)
    elif outputs <= 64:
        pixels, most, warps, stages = 128, 64, 4, 2
    elif channels * outputs >= 1 << 16:
        pixels, most, warps, stages = 128, 128, 8, 3
    else:
        pixels, most, warps, stages = 64, 128, 4, 3
    across = launch.power(outputs, 16, most)
    return [Config(pixels=pixels, outputs=across, channels=deep, warps=warps, stages=stages)]


def pointwise(
    x: Tensor,
    weight: Tensor,
    *,
    config: Config,
    transposed: bool = False,
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
    """Combine channels of `x` (batch, C, H, W), dense channels-last, with `weight` (N, C): (batch, N, H, W).

    Transposed, `x` has N channels, the result C: the input gradient. The rest is as in `depthwise`.
    """
    batch, channels, height, width = x.shape
    outputs = weight.shape[1 if transposed else 0]
    steps = weight.stride()[::-1] if transposed else weight.stride()
    out = launch.image((batch, outputs, height, width), x)
    pixels = batch * height * width
    tiles, across = launch.blocks(pixels, config.pixels), launch.blocks(outputs, config.outputs)
    share, ending, partial = 1, None, None
    if moments is not None or below is not None:
        share = max(1, tiles * across // _PROGRAMS)
        ending = "sums" if moments is None else "moments"
        room = statistics.room_for_sums if moments is None else statistics.room_for_moments
        partial = room(launch.blocks(tiles, share), outputs, x)
    programs = launch.blocks(tiles, share)
    launch.run(
        pointwise_kernel,
        (across * programs,),
        *(out, x, beside, numbers, turn, weight, scale, shift, residual, below, below_numbers, partial),
        *(pixels, channels, outputs, tiles, share, *steps),
        config=config,
        READ=read,
        ACTIVATION=activation,
        ENDING=ending,
        PRECISION=launch.precision(),
        PAIRED=launch.paired(x),
        DIVISOR=launch.divisor(channels),
        OUT_DIVISOR=launch.divisor(outputs),
        BLOCK_P=config.pixels,
        BLOCK_N=config.outputs,
        BLOCK_C=config.channels,
    )
    if partial is None:
        return out, None
    if moments is not None:
        statistics.moments(partial, programs, outputs, moments)
        return out, None
    return out, statistics.total(partial).view(2, outputs)
