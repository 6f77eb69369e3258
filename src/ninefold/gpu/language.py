"""What every Triton kernel here is written in: activations and their slopes, and how an image is read.

Tiles are (lanes, channels): lanes are positions of an image, channels lie side by side in memory. Arithmetic
is float32 whatever the images are. NaN passes, as in PyTorch; `tl.minimum` by itself would not let it.

An image between two convolutions is raw, with `numbers` (4, C): mean, variance, scale and shift. It is read
as activation(scale·(z - mean) + shift). A gradient is kept as it is behind the activation's slope; with
`turn` (3, C), rows p, q, r, that of z is p·(g + q·(z - mean) + r): the formulas of kernels/batchnorm.py.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def clip(x, low, high):
    """Clip to [low, high]; NaN stays NaN. Two instructions, where two comparisons were four."""
    return tl.clamp(x, low, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """An activation by its name; `None` is none."""
    if ACTIVATION == "relu":
        x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACTIVATION == "relu6":
        x = clip(x, 0.0, 6.0)
    elif ACTIVATION == "silu":
        x = x * tl.sigmoid(x)
    elif ACTIVATION == "hardswish":
        x = x * clip(x + 3, 0.0, 6.0) * (1 / 6)
    elif ACTIVATION == "gelu":
        x = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        # (1 + tanh u) / 2 = sigmoid(2u)
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif ACTIVATION == "hardsigmoid":
        x = clip(x + 3, 0.0, 6.0) * (1 / 6)
    elif ACTIVATION == "sigmoid":
        x = tl.sigmoid(x)
    return x


@triton.jit
def sloped(gradient, x, ACTIVATION: tl.constexpr):
    """`gradient`, which arrives at an activation's output, at its input `x`."""
    if ACTIVATION == "relu":
        gradient = tl.where(x <= 0, 0.0, gradient)
    elif ACTIVATION == "relu6":
        gradient = tl.where((x <= 0) | (x >= 6), 0.0, gradient)
    elif ACTIVATION == "silu":
        s = tl.sigmoid(x)
        gradient = gradient * s * (1 + x * (1 - s))
    elif ACTIVATION == "hardswish":
        inside = gradient * (x * (1 / 3) + 0.5)
        gradient = tl.where(x <= -3, 0.0, tl.where(x >= 3, gradient, inside))
    elif ACTIVATION == "gelu":
        normal = tl.exp(-0.5 * x * x) * 0.3989422804014327
        gradient = gradient * (0.5 * (1 + tl.erf(x * 0.7071067811865476)) + x * normal)
    elif ACTIVATION == "gelu_tanh":
        s = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
        gradient = gradient * s * (1 + x * (1 - s) * (1.5957691216057308 + 0.21406859462499846 * x * x))
    elif ACTIVATION == "hardsigmoid":
        gradient = tl.where((x <= -3) | (x >= 3), 0.0, gradient * (1 / 6))
    elif ACTIVATION == "sigmoid":
        s = tl.sigmoid(x)
        gradient = gradient * s * (1 - s)
    return gradient


@triton.jit
def widened(x):
    """A tile in float32. Of two bfloat16 in a register a shift is one and a mask the other.

    Triton by itself takes three instructions for a pair. The interpreter knows no assembly.
    """
    if x.dtype == tl.bfloat16 and not INTERPRETED:
        pair: tl.constexpr = "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;"
        bits = tl.inline_asm_elementwise(pair, "=r,=r,r", [x], dtype=tl.int32, is_pure=True, pack=2)
        x = bits.to(tl.float32, bitcast=True)
    else:
        x = x.to(tl.float32)
    return x


@triton.jit
def within(at, extent):
    """Whether 0 <= at < extent, in one comparison: below zero is far above as an unsigned number."""
    return at.to(tl.uint32, bitcast=True) < extent


@triton.jit
def existing(lanes, c, CHANNELS: tl.constexpr):
    """The mask (lanes, channels) of the lanes that are told and of channels that there are."""
    WHOLE: tl.constexpr = (CHANNELS + c.shape[0] - 1) // c.shape[0] * c.shape[0] == CHANNELS
    return lanes[:, None] if WHOLE else lanes[:, None] & (c < CHANNELS)[None, :]


@triton.jit
def row(pointer, index: tl.constexpr, channels, c):
    """Row `index` of a float32 table (rows, channels), for the channels `c`; 0 beyond the last."""
    return tl.load(pointer + index * channels + c, mask=c < channels, other=0.0).to(tl.float32)


@triton.jit
def vector(pointer, channels, c, absent: tl.constexpr):
    """One number per channel, or `absent` where there is no such tensor."""
    if pointer is None:
        return tl.full(c.shape, absent, tl.float32)
    else:
        return tl.load(pointer + c, mask=c < channels, other=0.0).to(tl.float32)


@triton.jit
def normalised(z, numbers, channels, c, ACTIVATION: tl.constexpr, EXACT: tl.constexpr):
    """activation(scale·(z - mean) + shift) of a tile (lanes, channels), or at the places c of a flat one.

    Unless EXACT it is one multiplication, scale·z + (shift - scale·mean): where images have 8 or 11 bits,
    what float32 loses to a large mean is less than they have lost already.
    """
    mean, scale, shift = (
        row(numbers, 0, channels, c),
        row(numbers, 2, channels, c),
        row(numbers, 3, channels, c),
    )
    if len(z.shape) > 1:
        mean, scale, shift = mean[None, :], scale[None, :], shift[None, :]
    z = scale * (z - mean) + shift if EXACT else scale * z + (shift - scale * mean)
    return activate(z, ACTIVATION)


@triton.jit
def turned(g, z, numbers, turn, channels, c, EXACT: tl.constexpr):
    """p·(g + q·(z - mean) + r) of two tiles (lanes, channels) or of two flat ones; EXACT as above."""
    mean = row(numbers, 0, channels, c)
    p, q, r = row(turn, 0, channels, c), row(turn, 1, channels, c), row(turn, 2, channels, c)
    if len(z.shape) > 1:
        mean, p, q, r = mean[None, :], p[None, :], q[None, :], r[None, :]
    return p * (g + q * (z - mean) + r) if EXACT else p * g + (p * q * z + p * (r - q * mean))


@triton.jit
def read(image, beside, offsets, mask, numbers, turn, channels, c, ACTIVATION: tl.constexpr):
    """A tile (lanes, channels) of an image as a convolution reads it, in float32; zeros where masked.

    Without `numbers` as it lies there, with them normalised and activated; with `turn` it is a gradient, and
    `beside` the raw image that it belongs to.
    """
    EXACT: tl.constexpr = image.dtype.scalar.element_ty == tl.float32
    value = widened(tl.load(image + offsets, mask=mask, other=0.0))
    if turn is not None:
        z = widened(tl.load(beside + offsets, mask=mask, other=0.0))
        value = tl.where(mask, turned(value, z, numbers, turn, channels, c, EXACT), 0.0)
    elif numbers is not None:
        value = tl.where(mask, normalised(value, numbers, channels, c, ACTIVATION, EXACT), 0.0)
    return value


@triton.jit
def finished(value, scale, shift, channels, c, ACTIVATION: tl.constexpr):
    """activation(scale·value + shift), scale and shift one number per channel or None."""
    if scale is not None:
        value = value * vector(scale, channels, c, 1.0)[None, :]
    if shift is not None:
        value = value + vector(shift, channels, c, 0.0)[None, :]
    return activate(value, ACTIVATION)


@triton.jit
def product(a, b, total, PRECISION: tl.constexpr):
    """total + a·b. Triton's interpreter would multiply the bits of bfloat16, so "emulated" widens first."""
    if PRECISION == "emulated":
        total = tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    else:
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total
