"""The combining stage: N filters 1×1×M, one matrix product over pixels.

    out[d, p] = clip(bias[d] + Σ_m weight[m, d] · input[m, p], low, high) (+ residual[d, p])

p is the pixel, rows × columns flattened into one index, so that a 7×7 image wastes no part of a tile; d the
output channel. Shapes: input (M, P), weight packed as panels (width, M, N/width), bias (N), residual and out
(N, P). N is a multiple of the panel's width (packing pads it) and P a multiple of the tile's pixels (the
caller has smaller tiles for the rest).

The panel's reuse: a panel of `width` output channels stays in the cache while all pixels pass by it, each
tile of pixels × width accumulators in registers. On one Zen 4 core (peak 115 GFLOP/s): 512→512 at 112 with
12×32 (AVX-512) and 108 with 6×16 (AVX2); 32→192, where the epilogue weighs most, 94 and 102.
"""

from __future__ import annotations

import halide as hl

from activations import clip
from targets import InstructionSet


def pointwise(isa: InstructionSet, width: int, pixels: int) -> tuple[hl.Func, list]:
    """The micro-kernel of pixels × width, over all panels and tiles of pixels of a block."""
    d, p = hl.Var("d"), hl.Var("p")
    image = hl.ImageParam(hl.Float(32), 2, "image")
    weight = hl.ImageParam(hl.Float(32), 3, "weight")
    bias = hl.ImageParam(hl.Float(32), 1, "bias")
    residual = hl.ImageParam(hl.Float(32), 2, "residual")
    add_residual = hl.Param(hl.Bool(), "add_residual")
    low, high = hl.Param(hl.Float(32), "low"), hl.Param(hl.Float(32), "high")

    # The algorithm.
    m = hl.RDom([(0, image.dim(0).extent())], "m")
    total, out = hl.Func("total"), hl.Func("pointwise")
    total[d, p] = bias[d]
    total[d, p] += weight[d % width, m.x, d // width] * image[m.x, p]
    combined = clip(total[d, p], low, high)
    out[d, p] = hl.select(add_residual, combined + residual[d, p], combined)

    # The schedule. A panel narrower than a register takes a shorter one.
    lanes = min(isa.lanes, width)
    do, di, po, pi = hl.Var("do"), hl.Var("di"), hl.Var("po"), hl.Var("pi")
    exact = hl.TailStrategy.RoundUp
    out.split(d, do, di, width, exact).split(p, po, pi, pixels, exact)
    out.reorder(di, pi, po, do).vectorize(di, lanes).unroll(di).unroll(pi)
    out.specialize(add_residual)
    total.compute_at(out, po).vectorize(d, lanes).unroll(d).unroll(p)
    total.update().reorder(d, p, m.x).vectorize(d, lanes).unroll(d).unroll(p)

    for buffer in (image, weight, bias, residual, out.output_buffer()):
        for k in range(buffer.dimensions()):
            buffer.dim(k).set_min(0)
    weight.dim(0).set_extent(width)
    weight.dim(1).set_stride(width)
    for k, multiple in ((0, width), (1, pixels)):
        extent = out.output_buffer().dim(k).extent()
        out.output_buffer().dim(k).set_extent((extent // multiple) * multiple)
    return out, [image, weight, bias, residual, add_residual, low, high]


def few(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel for so few filters that a panel of them would be mostly padding: their sums along the pixel.

    A vector holds isa.lanes of a pixel's channels; of as many pixels, the vectors of sums are added up across
    in one go. weight: (M, N) as PyTorch has it, M at least isa.lanes; bias (N), image (M, P) with P at least
    isa.lanes, out (N, P). Where it pays, says runtime/pointwise.cpp.
    """
    d, p, lane = hl.Var("d"), hl.Var("p"), hl.Var("lane")
    image = hl.ImageParam(hl.Float(32), 2, "image")
    weight = hl.ImageParam(hl.Float(32), 2, "weight")
    bias = hl.ImageParam(hl.Float(32), 1, "bias")
    low, high = hl.Param(hl.Float(32), "low"), hl.Param(hl.Float(32), "high")
    lanes, inputs = isa.lanes, image.dim(0).extent()

    # The algorithm. What is left of the channels is the last vector of them, without those that were there.
    vectors = hl.RDom([(0, inputs // lanes)], "vectors")
    across = hl.RDom([(0, lanes)], "across")
    partial, total, out = hl.Func("partial"), hl.Func("total"), hl.Func("pointwise")
    partial[lane, d, p] = hl.cast(hl.Float(32), 0)
    m = vectors.x * lanes + lane
    partial[lane, d, p] += weight[m, d] * image[m, p]
    rest = hl.RDom([(0, hl.select(inputs % lanes > 0, 1, 0))], "rest")
    end = inputs - lanes + lane + rest.x
    fresh = hl.select(lane >= lanes - inputs % lanes, hl.cast(hl.Int(32), -1), hl.cast(hl.Int(32), 0))

    def left(value: hl.Expr) -> hl.Expr:  # both factors, or what is infinite would make a NaN of a zero
        return hl.reinterpret(hl.Float(32), hl.reinterpret(hl.Int(32), value) & fresh)

    partial[lane, d, p] += left(weight[end, d]) * left(image[end, p])
    total[d, p] = bias[d]
    total[d, p] += partial[across.x, d, p]
    out[d, p] = clip(total[d, p], low, high)

    # The schedule.
    po, pi = hl.Var("po"), hl.Var("pi")
    out.split(p, po, pi, lanes, hl.TailStrategy.ShiftInwards).reorder(pi, d, po).vectorize(pi)
    total.compute_at(out, d).vectorize(p, lanes)
    total.update().atomic().vectorize(across.x).vectorize(p, lanes)
    partial.compute_at(out, d).vectorize(lane, lanes).unroll(p)
    for k, domain in ((0, vectors), (1, rest)):
        partial.update(k).reorder(lane, p, domain.x).vectorize(lane, lanes).unroll(p)
    for buffer in (image, weight, bias, out.output_buffer()):
        for k in range(buffer.dimensions()):
            buffer.dim(k).set_min(0)
    return out, [image, weight, bias, low, high]
