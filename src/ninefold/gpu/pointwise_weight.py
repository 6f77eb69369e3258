"""The gradient of pointwise weights in Triton: dw[n, c] = Σ[p] g[p, n] · in[p, c].

A matrix product whose long side is the pixels: each program multiplies one share of them for a block of
outputs × channels and writes one table; tables are added in their order, so that runs repeat.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ninefold.gpu import launch, statistics
from ninefold.gpu.language import product, read
from ninefold.gpu.launch import Config

_PROGRAMS = 132 * 4


@triton.jit(do_not_specialize=launch.EXTENTS)
def pointwise_weight_kernel(
    out,
    gradient,
    beside,
    gradient_numbers,
    turn,
    image,
    image_numbers,
    pixels,
    channels,
    outputs,
    share,
    READ: tl.constexpr,
    PRECISION: tl.constexpr,
    DIVISOR: tl.constexpr,
    OUT_DIVISOR: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One share of the pixels, for a block of outputs × channels."""
    channels, outputs = channels // DIVISOR * DIVISOR, outputs // OUT_DIVISOR * OUT_DIVISOR
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    begin = tl.program_id(0).to(tl.int64) * share
    lane = tl.arange(0, BLOCK_P)
    for step in range(0, share, BLOCK_P):
        start = begin + step
        live = lane < tl.minimum(tl.minimum(begin + share, pixels) - start, BLOCK_P).to(tl.int32)
        mask = live[:, None] & (n < outputs)[None, :]
        offsets = lane[:, None] * outputs + n[None, :]
        at = gradient + start * outputs
        near = at if beside is None else beside + start * outputs
        g = read(at, near, offsets, mask, gradient_numbers, turn, outputs, n, None)
        mask = live[:, None] & (c < channels)[None, :]
        offsets = lane[:, None] * channels + c[None, :]
        at = image + start * channels
        value = read(at, at, offsets, mask, image_numbers, None, channels, c, READ)
        g, value = g.to(gradient.dtype.element_ty), value.to(image.dtype.element_ty)
        total = product(tl.trans(g), value, total, PRECISION)
    into = tl.program_id(0).to(tl.int64) * outputs * channels
    offsets = n[:, None] * channels + c[None, :]
    tl.store(out + into + offsets, total, mask=(n < outputs)[:, None] & (c < channels)[None, :])


def configs(channels: int, outputs: int) -> list[Config]:
    """Block sizes worth a try, the first of them the one to take untried."""
    found = []
    for most, pixels, warps in ((64, 64, 4), (128, 64, 8)):
        across, deep = launch.power(outputs, 16, most), launch.power(channels, 16, most)
        found.append(Config(pixels=pixels, outputs=across, channels=deep, warps=warps, stages=3))
    return list(dict.fromkeys(found))


def pointwise_weight(
    gradient: Tensor,
    x: Tensor,
    *,
    config: Config,
    read: str | None = None,
    numbers: Tensor | None = None,
    beside: Tensor | None = None,
    gradient_numbers: Tensor | None = None,
    turn: Tensor | None = None,
) -> Tensor:
    """The gradient (N, C, 1, 1), float32; images and how they are read as in `depthwise_weight`."""
    batch, channels, height, width = x.shape
    outputs, pixels = gradient.shape[1], batch * height * width
    across, deep = launch.blocks(outputs, config.outputs), launch.blocks(channels, config.channels)
    shares = min(max(1, _PROGRAMS // (across * deep)), launch.blocks(pixels, config.pixels))
    share = launch.blocks(launch.blocks(pixels, config.pixels), shares) * config.pixels
    shares = launch.blocks(pixels, share)
    partial = torch.empty((shares, outputs * channels), dtype=torch.float32, device=x.device)
    launch.run(
        pointwise_weight_kernel,
        (shares, across, deep),
        *(partial, gradient, beside, gradient_numbers, turn, x, numbers, pixels, channels, outputs, share),
        config=config,
        READ=read,
        PRECISION=launch.precision(),
        DIVISOR=launch.divisor(channels),
        OUT_DIVISOR=launch.divisor(outputs),
        BLOCK_P=config.pixels,
        BLOCK_N=config.outputs,
        BLOCK_C=config.channels,
    )
    return statistics.total(partial).view(outputs, channels, 1, 1)
