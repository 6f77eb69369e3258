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
