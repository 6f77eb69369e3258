"""Batch-normalisation (Ioffe and Szegedy, 2015), forward and backward, of a tile in the cache.

With z a convolution's output, μ, s and b of one channel the mean, the scale γ/√(σ²+ε) and the shift β:

    apply:      out = clip(s·(z - μ) + b)                            what the next convolution reads
    statistics: Σ (z - pivot),  Σ (z - pivot)²                       one tile's part of mean and variance
    sums:       Σ g,  Σ g·(z - μ)                                    the two reductions of the backward pass
    turn:       out = p·(g + q·(z - μ) + r)                          the gradient of z
    slope:      out = gradient · activation'(s·(z - μ) + b)

g is `gradient` where the clip let its argument pass and 0 elsewhere, as PyTorch has it: NaN passes, the
two bounds do not. A clip that is none has NaN for bounds there. p, q, r fold the whole formula of the
gradient into an affine map of two images, one triple per channel (runtime/training.cpp computes them). p is
multiplied last: what it is rounded by would not cancel between p·g and the mean of it that is taken away.

Shapes: images (C, W, H), a number per channel (C). The mean is subtracted before anything is multiplied, for
s·z + (b - s·μ) loses every digit where the mean is a thousand standard deviations. Sums run in float32 over
tiles of a few hundred pixels, around a pivot near the mean; the tiles are merged in float64.

One Zen 4 core, bytes read and written a second: from the caches apply and turn 54 to 70 GB/s, sums 43 to 64,
statistics 37 to 69; from memory 16, where a plain copy made 18. Channels innermost: pixels innermost, their
numbers kept in registers, went at 12 from memory.

apply and turn ask for what they will read 8 KB later. Written in C, apply read from memory, into a band
in the second-level cache, at 17 instead of 12 GB/s on small pages and at 22 instead of 14.5 on large ones;
16 KB ahead was the same, 4 KB ahead or into the first cache alone gained nothing. A step of mobilenetv2_100
takes 0.91 to 0.94 of its time, one of mobilenetv1_100 0.96 to 0.98.

Where a product has asked for their images already (`near`), what is left is loads of a channel's numbers: six
for each vector that turn makes of two. There they make a few pixels at a time of each and ask for nothing:
four, or with 16 registers two, for with four AVX2's step took 1.007. mobilenetv2_100's takes 0.98 of its
time, with two threads, too, mobilenetv1_100's, efficientnet_lite0's and xception41's 0.99. From memory that
order is slower: with it everywhere, and the same prefetches, mobilenetv2_100 took 1.02.
"""

from __future__ import annotations

import halide as hl

from activations import SLOPES, clip, f32
from targets import InstructionSet

AHEAD = 2048  # numbers between what is read of an image and what is asked for: 8 KB
COLUMNS = 2  # vectors of channels in flight, where there are so many


def apply(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel that normalises and clips."""
    c, x, y = _place()
    z, (mean, scale, shift) = _image("z"), _numbers("mean", "scale", "shift")
    low, high = hl.Param(hl.Float(32), "low"), hl.Param(hl.Float(32), "high")
    out = hl.Func("apply")
    out[c, x, y] = clip(scale[c] * (z[c, x, y] - mean[c]) + shift[c], low, high)
    near = hl.Param(hl.Bool(), "near")
    return _by_channels(isa, out, near, z), [z, mean, scale, shift, low, high, near]


def turn(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel that makes the gradient of the convolution's output."""
    c, x, y = _place()
    gradient, z = _image("gradient"), _image("z")
    mean, scale, shift = _numbers("mean", "scale", "shift")
    p, q, r = _numbers("p", "q", "r")
    low, high = hl.Param(hl.Float(32), "low"), hl.Param(hl.Float(32), "high")
    out = hl.Func("turn")
    around = z[c, x, y] - mean[c]
    passed = _passed(gradient[c, x, y], scale[c] * around + shift[c], low, high)
    out[c, x, y] = p[c] * (q[c] * around + (passed + r[c]))
    near = hl.Param(hl.Bool(), "near")
    arguments = [gradient, z, mean, scale, shift, p, q, r, low, high, near]
    return _by_channels(isa, out, near, z, gradient), arguments


def slope(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel of the activations' derivatives, by place in SLOPES; out may be the gradient itself."""
    c, x, y = _place()
    gradient, z = _image("gradient"), _image("z")
    mean, scale, shift = _numbers("mean", "scale", "shift")
    which = hl.Param(hl.Int(32), "which")
    out = hl.Func("slope")
    before = scale[c] * (z[c, x, y] - mean[c]) + shift[c]
    chosen = f32(0)
    for place, derivative in enumerate(SLOPES.values()):
        chosen = hl.select(which == place, derivative(before), chosen)
    out[c, x, y] = gradient[c, x, y] * chosen
    _from_zero(out.output_buffer())
    for place in range(len(SLOPES)):
        out.specialize(which == place).vectorize(c, isa.lanes, hl.TailStrategy.GuardWithIf)
    out.specialize_fail("no such activation")
    return out, [gradient, z, mean, scale, shift, which]


def statistics(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel of one tile's two sums, around a pivot."""
    c, _, _ = _place()
    z, (pivot,) = _image("z"), _numbers("pivot")
    pixels = hl.RDom([(0, z.dim(1).extent()), (0, z.dim(2).extent())], "pixels")
    around = z[c, pixels.x, pixels.y] - pivot[c]
    return _summed(isa, "statistics", around, around * around, z, pixels), [z, pivot]


def sums(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel of one tile's two reductions over the gradient."""
    c, _, _ = _place()
    gradient, z = _image("gradient"), _image("z")
    mean, scale, shift = _numbers("mean", "scale", "shift")
    low, high = hl.Param(hl.Float(32), "low"), hl.Param(hl.Float(32), "high")
    pixels = hl.RDom([(0, z.dim(1).extent()), (0, z.dim(2).extent())], "pixels")
    around = z[c, pixels.x, pixels.y] - mean[c]
    passed = _passed(gradient[c, pixels.x, pixels.y], scale[c] * around + shift[c], low, high)
    return _summed(isa, "sums", passed, passed * around, z, pixels), [
        *(gradient, z, mean, scale, shift, low, high),
    ]


def _passed(gradient: hl.Expr, before: hl.Expr, low: hl.Expr, high: hl.Expr) -> hl.Expr:
    # Two ordered comparisons, so that NaN on either side lets the gradient pass. Halide turns a <= b into
    # !(b < a), which would stop it, so the bounds come one step inside.
    above = hl.strict_float(hl.select(before < low, f32(0), gradient))
    return hl.strict_float(hl.select(high < before, f32(0), above))


def _by_channels(isa: InstructionSet, out: hl.Func, near: hl.Param, *images: hl.ImageParam) -> hl.Func:
    # In the order of memory: see the figures above.
    c, x, y = _place()
    co, ci, xo, xi = hl.Var("co"), hl.Var("ci"), hl.Var("xo"), hl.Var("xi")

    def in_cache(stage: hl.Stage, vectors: int) -> None:
        stage.split(c, co, ci, isa.lanes * vectors, hl.TailStrategy.ShiftInwards)
        stage.split(x, xo, xi, isa.registers // 8, hl.TailStrategy.GuardWithIf)
        stage.vectorize(ci, isa.lanes).reorder(ci, xi, co, xo, y).unroll(ci).unroll(xi)

    def from_memory(stage: hl.Func | hl.Stage, vectors: int) -> None:
        stage.split(c, co, ci, isa.lanes * vectors, hl.TailStrategy.ShiftInwards)
        stage.vectorize(ci, isa.lanes).reorder(ci, co, x, y).unroll(ci)
        for image in images:
            # By name, for with an image in first place Halide takes it for a function. Dense rows follow one
            # another, so that what lies past a row is the next one's; past the image nothing faults.
            ahead = {"at": ci, "from": x, "offset": AHEAD // image.dim(0).extent()}
            stage.prefetch(image=image, strategy=hl.PrefetchBoundStrategy.NonFaulting, **ahead)

    _from_zero(out.output_buffer())
    several = images[0].dim(0).extent() >= isa.lanes * COLUMNS
    in_cache(out.specialize(near & several), COLUMNS)
    in_cache(out.specialize(near), 1)
    from_memory(out.specialize(several), COLUMNS)
    from_memory(out, 1)
    return out


def _summed(
    isa: InstructionSet, name: str, first: hl.Expr, second: hl.Expr, image: hl.ImageParam, pixels: hl.RDom
) -> hl.Func:
    c, _, _ = _place()
    co, ci = hl.Var("co"), hl.Var("ci")
    total, out = hl.Func("total"), hl.Func(name)
    total[c] = (f32(0), f32(0))
    total[c] = (total[c][0] + first, total[c][1] + second)
    out[c] = (total[c][0], total[c][1])

    def schedule(stage: hl.Func | hl.Stage, vectors: int) -> None:
        stage.split(c, co, ci, isa.lanes * vectors, hl.TailStrategy.ShiftInwards)
        stage.vectorize(ci, isa.lanes).unroll(ci)

    schedule(out.specialize(image.dim(0).extent() >= isa.lanes * COLUMNS), COLUMNS)
    schedule(out, 1)
    total.compute_at(out, co).vectorize(c, isa.lanes).unroll(c)
    total.update().reorder(c, pixels.x, pixels.y).vectorize(c, isa.lanes).unroll(c)
    _from_zero(out.output_buffers()[0])
    return out


def _place() -> tuple[hl.Var, hl.Var, hl.Var]:
    return hl.Var("c"), hl.Var("x"), hl.Var("y")


def _image(name: str) -> hl.ImageParam:
    image = hl.ImageParam(hl.Float(32), 3, name)
    _from_zero(image)
    return image


def _numbers(*names: str) -> list[hl.ImageParam]:
    numbers = [hl.ImageParam(hl.Float(32), 1, name) for name in names]
    for number in numbers:
        _from_zero(number)
    return numbers


def _from_zero(buffer: hl.ImageParam | hl.OutputImageParam) -> None:
    for k in range(buffer.dimensions()):
        buffer.dim(k).set_min(0)
