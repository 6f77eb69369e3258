"""Depthwise and pointwise in one Triton kernel: what lies between the stages never leaves the chip.

A program filters a tile of pixels for a block of channels, multiplies it at once into the tile's outputs
(`tl.dot`), and goes on to the next block of channels. Where one program cannot hold all outputs the filtering
is done again for each block of them, which is what the number of outputs costs here.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ninefold.gpu import launch
from ninefold.gpu.language import finished, product, widened
from ninefold.gpu.launch import Config
from ninefold.gpu.patch import sums
from ninefold.gpu.window import Window


@triton.jit(do_not_specialize=launch.EXTENTS)
def separable_kernel(
    out,
    image,
    depthwise_weight,
    depthwise_shift,
    pointwise_weight,
    shift,
    residual,
    height,
    width,
    out_height,
    out_width,
    outputs,
    tiles_y,
    tiles_x,
    DEPTHWISE_ACTIVATION: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
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
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUT_DIVISOR: tl.constexpr,
):
    """One tile of one image, for a block of outputs."""
    outputs = outputs // OUT_DIVISOR * OUT_DIVISOR
    tile = tl.program_id(0)
    tile_x, tile_y, at = tile % tiles_x, tile // tiles_x % tiles_y, tile // tiles_x // tiles_y
    lane = tl.arange(0, LANES_Y * LANES_X)
    y = (tile_y * LANES_Y + lane // LANES_X) * PATCH_Y
    x = (tile_x * LANES_X + lane % LANES_X) * PATCH_X
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    first = image + at.to(tl.int64) * height * width * CHANNELS
    totals = ()
    for _ in tl.static_range(PATCH_Y * PATCH_X):
        totals = totals + (tl.zeros((LANES_Y * LANES_X, BLOCK_N), tl.float32),)
    for begin in range(0, CHANNELS, BLOCK_C):
        c = begin + tl.arange(0, BLOCK_C)
        filtered = sums(
            first,
            first,
            None,
            None,
            depthwise_weight,
            y,
            x,
            (y < out_height) & (x < out_width),
            height,
            width,
            CHANNELS,
            c,
            None,
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
        at_w = pointwise_weight + n[None, :] * CHANNELS + c[:, None]
        w = tl.load(at_w, mask=(c < CHANNELS)[:, None] & (n < outputs)[None, :], other=0.0)
        more = ()
        for k in tl.static_range(PATCH_Y * PATCH_X):
            a = finished(filtered[k], None, depthwise_shift, CHANNELS, c, DEPTHWISE_ACTIVATION)
            # Channels beyond the last: an activation of nothing need not be nothing.
            a = tl.where((c < CHANNELS)[None, :], a, 0.0).to(image.dtype.element_ty)
            more = more + (product(a, w.to(a.dtype), totals[k], PRECISION),)
        totals = more
    start = at.to(tl.int64) * out_height * out_width * outputs
    corner = start + (((y * out_width + x) * outputs)[:, None] + n[None, :])
    for r in tl.static_range(PATCH_Y):
        for q in tl.static_range(PATCH_X):
            mask = ((y + r < out_height) & (x + q < out_width))[:, None] & (n < outputs)[None, :]
            here = corner + (r * out_width + q) * outputs
            value = finished(totals[r * PATCH_X + q], None, shift, outputs, n, ACTIVATION)
            if residual is not None:
                value += widened(tl.load(residual + here, mask=mask, other=0.0))
            tl.store(out + here, value.to(out.dtype.element_ty), mask=mask)


def configs(window: Window, size: tuple[int, int], channels: int, outputs: int) -> list[Config]:
    """Block sizes worth a try, the first of them the one to take untried."""
    # Compiled for sm_90 an output pixel of 32→64 takes 45 instructions of a warp in patches of 1×2, 35 of 2×2
    # (92 and 114 registers: room for two programs): 173 and 141 µs at 112² on an H200, in two kernels 176.
    # From two blocks of channels on the products' sums stay in registers while the next block is filtered,
    # and one program finds room: 64→128 173 µs, in two kernels 144; 512→512 at 14² 189 and 72.
    one, several = (((2, 2), 128), ((1, 2), 128)), (((1, 2), 128), ((1, 1), 256))
    sizes = one if channels <= 32 else several
    found = []
    for patch, most in sizes:
        lanes = 64
        across = min(launch.power(launch.blocks(size[1], patch[1]), 1, 8), lanes)
        block = launch.power(outputs, 16, most)
        deep = launch.power(channels, 16, 32)
        found.append(
            Config(
                patch=patch,
                lanes=(lanes // across, across),
                outputs=block,
                channels=deep,
                warps=8,
                stages=1,
            )
        )
    return list(dict.fromkeys(found))


def separable(
    x: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    window: Window,
    *,
    config: Config,
    depthwise_shift: Tensor | None = None,
    shift: Tensor | None = None,
    depthwise_activation: str | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Filter `x` (batch, C, H, W) with weights (taps, C), combine with (N, C); channels-last throughout.

    The result is activation(pointwise(depthwise_activation(depthwise + its shift)) + shift) + residual.
    """
    batch, channels, height, width = x.shape
    size, outputs = window.output_size(height, width), pointwise_weight.shape[0]
    out = launch.image((batch, outputs, *size), x)
    tiles_y, tiles_x, tiles = launch.tiles(batch, size, config)
    launch.run(
        separable_kernel,
        (tiles, launch.blocks(outputs, config.outputs)),
        *(out, x, depthwise_weight, depthwise_shift, pointwise_weight, shift, residual),
        *(height, width, *size, outputs, tiles_y, tiles_x),
        config=config,
        DEPTHWISE_ACTIVATION=depthwise_activation,
        ACTIVATION=activation,
        PRECISION=launch.precision(),
        LANES_Y=config.lanes[0],
        LANES_X=config.lanes[1],
        BLOCK_N=config.outputs,
        BLOCK_C=config.channels,
        CHANNELS=channels,
        OUT_DIVISOR=launch.divisor(outputs),
        **window.constants(config.patch),
    )
    return out
