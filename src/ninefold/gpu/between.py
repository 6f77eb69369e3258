"""What stands between convolutions, in Triton: batch-norm and activation by themselves, both ways.

The convolutions' own kernels normalise what they read and reduce what they write. These are for a chain's
last image, for its first gradient, and for convolutions that cuDNN computes. What reduces takes an image as
rows of channels, each program one share of the blocks of pixels, and writes one row of partial results.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ninefold.gpu import launch, statistics
from ninefold.gpu.language import normalised, row, sloped, turned, vector
from ninefold.gpu.launch import Config
from ninefold.gpu.statistics import end_moments, end_sums

_VALUES = 4096  # of a block of pixels × channels
_SHARES = 132 * 8  # programs for the whole device
_CONFIG = Config(warps=4)
_EXTENTS = ["pixels", "channels", "share", "values"]


@triton.jit(do_not_specialize=_EXTENTS)
def apply_kernel(
    out,
    image,
    numbers,
    residual,
    values,
    channels,
    ACTIVATION: tl.constexpr,
    DIVISOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out = activation(scale·(z - mean) + shift) + residual, over an image's values as they lie in memory."""
    channels, values = channels // DIVISOR * DIVISOR, values // DIVISOR * DIVISOR
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < values
    value = tl.load(image + at, mask=mask, other=0.0).to(tl.float32)
    if numbers is not None:
        EXACT: tl.constexpr = image.dtype.element_ty == tl.float32
        value = normalised(value, numbers, channels, (at % channels).to(tl.int32), ACTIVATION, EXACT)
    if residual is not None:
        value += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_EXTENTS)
def turn_kernel(
    out,
    gradient,
    image,
    numbers,
    turn,
    values,
    channels,
    DIVISOR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out = p·(g + q·(z - mean) + r): the gradient of z, whole."""
    channels, values = channels // DIVISOR * DIVISOR, values // DIVISOR * DIVISOR
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < values
    g = tl.load(gradient + at, mask=mask, other=0.0).to(tl.float32)
    z = tl.load(image + at, mask=mask, other=0.0).to(tl.float32)
    EXACT: tl.constexpr = image.dtype.element_ty == tl.float32
    value = turned(g, z, numbers, turn, channels, (at % channels).to(tl.int32), EXACT)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_EXTENTS)
def moments_kernel(
    partial,
    image,
    pixels,
    channels,
    share,
    DIVISOR: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Mean and M2 of a share of an image's pixels."""
    channels = channels // DIVISOR * DIVISOR
    begin = tl.program_id(0).to(tl.int64) * share * BLOCK_P
    end = tl.minimum(begin + share * BLOCK_P, pixels)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    pivot = tl.load(image + begin * channels + c, mask=c < channels, other=0.0).to(tl.float32)
    first = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    second = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for step in range(0, share):
        p = begin + step * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (p < end)[:, None] & (c < channels)[None, :]
        z = tl.load(image + p[:, None] * channels + c[None, :], mask=mask, other=0.0).to(tl.float32)
        away = tl.where(mask, z - pivot[None, :], 0.0)
        first += away
        second += away * away
    end_moments(
        partial,
        tl.program_id(0),
        tl.num_programs(0),
        pivot,
        first,
        second,
        (end - begin).to(tl.float32),
        channels,
        c,
    )


@triton.jit(do_not_specialize=_EXTENTS)
def reduce_kernel(
    kept,
    partial,
    gradient,
    image,
    numbers,
    pixels,
    channels,
    share,
    ACTIVATION: tl.constexpr,
    DIVISOR: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Write a gradient behind the activation's slope (unless `kept` is None), and its two sums."""
    channels = channels // DIVISOR * DIVISOR
    begin = tl.program_id(0).to(tl.int64) * share * BLOCK_P
    end = tl.minimum(begin + share * BLOCK_P, pixels)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mean, scale, shift = (
        row(numbers, 0, channels, c),
        row(numbers, 2, channels, c),
        row(numbers, 3, channels, c),
    )
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    moment = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for step in range(0, share):
        p = begin + step * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (p < end)[:, None] & (c < channels)[None, :]
        offsets = p[:, None] * channels + c[None, :]
        g = tl.load(gradient + offsets, mask=mask, other=0.0).to(tl.float32)
        around = tl.load(image + offsets, mask=mask, other=0.0).to(tl.float32) - mean[None, :]
        g = sloped(g, scale[None, :] * around + shift[None, :], ACTIVATION)
        if kept is not None:
            rounded = g.to(kept.dtype.element_ty)
            tl.store(kept + offsets, rounded, mask=mask)
            g = rounded.to(tl.float32)
        total += tl.where(mask, g, 0.0)
        moment += tl.where(mask, g * around, 0.0)
    end_sums(partial, tl.program_id(0), total, moment, channels, c)


@triton.jit(do_not_specialize=["channels"])
def normalise_kernel(numbers, gamma, beta, eps, channels, BLOCK_C: tl.constexpr):
    """Fill in scale γ/√(σ² + ε) and shift β, from the variance."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    variance = row(numbers, 1, channels, c)
    scale = vector(gamma, channels, c, 1.0) / tl.sqrt_rn(variance + eps)
    tl.store(numbers + 2 * channels + c, scale, mask=c < channels)
    tl.store(numbers + 3 * channels + c, vector(beta, channels, c, 0.0), mask=c < channels)


@triton.jit(do_not_specialize=["channels", "pixels"])
def normalise_backward_kernel(
    turn, along, numbers, gamma, sums, eps, pixels, channels, BATCH: tl.constexpr, BLOCK_C: tl.constexpr
):
    """The turn (p, q, r) of a gradient, and the gradients of gamma and beta, from its two sums."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inverse = 1.0 / tl.sqrt_rn(row(numbers, 1, channels, c) + eps)
    total, moment = row(sums, 0, channels, c), row(sums, 1, channels, c) * inverse
    p = vector(gamma, channels, c, 1.0) * inverse
    q, r = tl.zeros(c.shape, tl.float32), tl.zeros(c.shape, tl.float32)
    if BATCH:
        count = pixels.to(tl.float32)
        q, r = -inverse * moment / count, -total / count
    tl.store(turn + c, p, mask=c < channels)
    tl.store(turn + channels + c, q, mask=c < channels)
    tl.store(turn + 2 * channels + c, r, mask=c < channels)
    tl.store(along + c, moment, mask=c < channels)
    tl.store(along + channels + c, total, mask=c < channels)


def apply(
    image: Tensor, numbers: Tensor | None, activation: str | None, residual: Tensor | None = None
) -> Tensor:
    """`image` (batch, C, H, W) normalised and activated, and the residual added; dense channels-last."""
    out = torch.empty_like(image)
    grid, sizes = _flat(image)
    given = (out, image, numbers, residual, image.numel(), image.shape[1])
    launch.run(apply_kernel, grid, *given, config=_CONFIG, ACTIVATION=activation, **sizes)
    return out


def turn(gradient: Tensor, image: Tensor, numbers: Tensor, by: Tensor) -> Tensor:
    """The gradient of the raw `image`, from the one behind its activation's slope and its turn (3, C)."""
    out = torch.empty_like(image)
    grid, sizes = _flat(image)
    given = (out, gradient, image, numbers, by, image.numel(), image.shape[1])
    launch.run(turn_kernel, grid, *given, config=_CONFIG, **sizes)
    return out


def moments(image: Tensor, into: Tensor) -> None:
    """Write each channel's mean and biased variance into the first two rows of `into`."""
    pixels, channels, sizes = _extents(image)
    grid, share = _shares(pixels, channels, sizes)
    partial = statistics.room_for_moments(grid[0], channels, image)
    launch.run(moments_kernel, grid, partial, image, pixels, channels, share, config=_CONFIG, **sizes)
    statistics.moments(partial, grid[0], channels, into)


def reduce(image: Tensor, numbers: Tensor, activation: str | None, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient behind the activation's slope, and its sums (2, C), Σ g and Σ g·(z - mean)."""
    pixels, channels, sizes = _extents(image)
    grid, share = _shares(pixels, channels, sizes)
    kept = None if activation is None else torch.empty_like(image)
    partial = statistics.room_for_sums(grid[0], channels, image)
    given = (kept, partial, gradient, image, numbers, pixels, channels, share)
    launch.run(reduce_kernel, grid, *given, config=_CONFIG, ACTIVATION=activation, **sizes)
    sums = statistics.total(partial).view(2, channels)
    return (gradient if kept is None else kept), sums


def normalise(numbers: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float) -> None:
    """Fill in the last two of an image's four rows of numbers."""
    channels = numbers.shape[1]
    grid, block = _by_channel(channels)
    launch.run(normalise_kernel, grid, numbers, gamma, beta, eps, channels, config=_CONFIG, BLOCK_C=block)


def normalise_backward(
    numbers: Tensor, gamma: Tensor | None, eps: float, sums: Tensor, pixels: int, batch_statistics: bool
) -> tuple[Tensor, Tensor]:
    """Return the turn (3, C) of a gradient and the gradients (2, C) of gamma and beta."""
    channels = numbers.shape[1]
    turn, along = numbers.new_empty((3, channels)), numbers.new_empty((2, channels))
    grid, block = _by_channel(channels)
    given = (turn, along, numbers, gamma, sums, eps, pixels, channels)
    launch.run(normalise_backward_kernel, grid, *given, config=_CONFIG, BATCH=batch_statistics, BLOCK_C=block)
    return turn, along


def _flat(image: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """The grid of what takes values as they lie, whatever their channels.

    Blocks of pixels × 64 channels left a quarter of their lanes idle at 96 and at 144 channels: 2.4 to 3.2
    TB/s on an H200, where 192 channels went at 4.2.
    """
    return (launch.blocks(image.numel(), _VALUES),), {
        "DIVISOR": launch.divisor(image.shape[1]),
        "BLOCK": _VALUES,
    }


def _extents(image: Tensor) -> tuple[int, int, dict[str, int]]:
    channels = image.shape[1]
    # Whole blocks where there are such: at 96 channels blocks of 64 would be a quarter empty.
    block = next((size for size in (64, 32) if channels % size == 0), launch.power(channels, 16, 64))
    sizes = {"DIVISOR": launch.divisor(channels), "BLOCK_P": _VALUES // block, "BLOCK_C": block}
    return image.numel() // channels, channels, sizes


def _shares(pixels: int, channels: int, sizes: dict[str, int]) -> tuple[tuple[int, int], int]:
    """The grid of a reduction, and the blocks of pixels of one program."""
    across, blocks = launch.blocks(channels, sizes["BLOCK_C"]), launch.blocks(pixels, sizes["BLOCK_P"])
    share = launch.blocks(blocks, max(1, _SHARES // across))
    return (launch.blocks(blocks, share), across), share


def _by_channel(channels: int) -> tuple[tuple[int], int]:
    block = launch.power(channels, 16, 256)
    return (launch.blocks(channels, block),), block
