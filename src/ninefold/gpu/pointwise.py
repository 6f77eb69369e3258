"""Pointwise convolution in Triton: out[p, n] = Σ[c] weight[n, c] · in[p, c], a matrix product over pixels.

One program makes a tile of pixels × outputs; all outputs where they fit, so that the image is read once. With
the weights' two sides exchanged it makes the input gradient. It reads and ends as the depthwise kernel does.
Float32 is multiplied in TF32 where PyTorch's convolutions are (`torch.backends.cudnn.allow_tf32`).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ninefold.gpu import launch, statistics
from ninefold.gpu.language import finished, product, read, row, sloped
from ninefold.gpu.launch import Config
from ninefold.gpu.statistics import end_moments, end_sums, middle


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
    step_output,
    step_channel,
    READ: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ENDING: tl.constexpr,
    PRECISION: tl.constexpr,
    DIVISOR: tl.constexpr,
    OUT_DIVISOR: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One tile of pixels × outputs."""
    channels, outputs = channels // DIVISOR * DIVISOR, outputs // OUT_DIVISOR * OUT_DIVISOR
    tile = tl.program_id(0)
    p = tile.to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_P, BLOCK_N), tl.float32)
    for begin in range(0, channels, BLOCK_C):
        c = begin + tl.arange(0, BLOCK_C)
        mask = (p < pixels)[:, None] & (c < channels)[None, :]
        offsets = p[:, None] * channels + c[None, :]
        if numbers is None:
            a = tl.load(image + offsets, mask=mask, other=0.0)
        else:
            value = read(image, beside, offsets, mask, numbers, turn, channels, c, READ)
            a = value.to(image.dtype.element_ty)
        at = weight + c[:, None] * step_channel + n[None, :] * step_output
        w = tl.load(at, mask=(c < channels)[:, None] & (n < outputs)[None, :], other=0.0)
        total = product(a, w.to(a.dtype), total, PRECISION)
    mask = (p < pixels)[:, None] & (n < outputs)[None, :]
    offsets = p[:, None] * outputs + n[None, :]
    around = total
    if ENDING == "sums":
        z = tl.load(below + offsets, mask=mask, other=0.0).to(tl.float32)
        around = z - row(below_numbers, 0, outputs, n)[None, :]
        before = row(below_numbers, 2, outputs, n)[None, :] * around
        value = sloped(total, before + row(below_numbers, 3, outputs, n)[None, :], ACTIVATION)
    else:
        value = finished(total, scale, shift, outputs, n, ACTIVATION)
    if residual is not None:
        value += tl.load(residual + offsets, mask=mask, other=0.0).to(tl.float32)
    value = value.to(out.dtype.element_ty)
    tl.store(out + offsets, value, mask=mask)
    if ENDING == "moments":
        count = tl.minimum(pixels - tile.to(tl.int64) * BLOCK_P, BLOCK_P).to(tl.float32)
        value = value.to(tl.float32)
        pivot = middle((value,), (mask,), 1, count)
        away = tl.where(mask, value - pivot[None, :], 0.0)
        end_moments(partial, pivot, away, away * away, count, outputs, n)
    elif ENDING == "sums":
        value = tl.where(mask, value.to(tl.float32), 0.0)
        end_sums(partial, value, tl.where(mask, value * around, 0.0), outputs, n)


def configs(channels: int, outputs: int) -> list[Config]:
    """Block sizes worth a try, the first of them the one to take untried."""
    deep = launch.power(channels, 16, 64)
    # Compiled for sm_90 with every reading and ending: 128×256 spills a kilobyte a thread, 64×128 leaves room
    # for three programs on a multiprocessor. Large tiles where the weights are read over and over. Narrow
    # layers (96→24 at 56² took 165 µs in tiles of 64 on an H200, its bytes 45) are held by instructions, a
    # fifth fewer a pixel in tiles of 128, and by how many programs find room, so they pipeline less.
    small, large = (64, 128, 4, 3), (128, 128, 8, 3)
    if outputs <= 64:
        sizes = [(128, 64, 4, 2), (64, 64, 4, 3), (256, 64, 8, 2)]
    elif channels * outputs >= 1 << 16:
        sizes = [large, small, (64, 256, 8, 3)]
    else:
        sizes = [small, large, (64, 256, 8, 3)]
    found = []
    for pixels, most, warps, stages in sizes:
        across = launch.power(outputs, 16, most)
        found.append(Config(pixels=pixels, outputs=across, channels=deep, warps=warps, stages=stages))
    return list(dict.fromkeys(found))


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
    tiles = launch.blocks(pixels, config.pixels)
    ending, partial = None, None
    if moments is not None:
        ending, partial = "moments", statistics.room_for_moments(tiles, outputs, x)
    elif below is not None:
        ending, partial = "sums", statistics.room_for_sums(tiles, outputs, x)
    launch.run(
        pointwise_kernel,
        (tiles, launch.blocks(outputs, config.outputs)),
        *(out, x, beside, numbers, turn, weight, scale, shift, residual, below, below_numbers, partial),
        *(pixels, channels, outputs, *steps),
        config=config,
        READ=read,
        ACTIVATION=activation,
        ENDING=ending,
        PRECISION=launch.precision(),
        DIVISOR=launch.divisor(channels),
        OUT_DIVISOR=launch.divisor(outputs),
        BLOCK_P=config.pixels,
        BLOCK_N=config.outputs,
        BLOCK_C=config.channels,
    )
    if partial is None:
        return out, None
    if moments is not None:
        statistics.moments(partial, tiles, outputs, moments)
        return out, None
    return out, statistics.total(partial).view(2, outputs)
