"""The two limits every benchmark is read against: multiply-adds and bytes.

`fma`: x ← x·factor[r] + b in VECTORS independent vectors, one broadcast load for all of them:
2 · VECTORS · lanes · factors operations. `copy`: out[i] = input[i] + 1, one number read and one written.
"""

from __future__ import annotations

import halide as hl

from targets import InstructionSet

# Enough to fill the pipelines of any core so far (latency 4 or 5, two a cycle), few enough for sixteen
# registers together with the two operands.
VECTORS = 12


def fma(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The multiply-add peak; out has VECTORS · lanes numbers."""
    i = hl.Var("i")
    factor, b = hl.ImageParam(hl.Float(32), 1, "factor"), hl.Param(hl.Float(32), "b")

    # The algorithm.
    r = hl.RDom([(0, factor.dim(0).extent())], "r")
    chain, out = hl.Func("chain"), hl.Func("fma")
    chain[i] = b
    chain[i] = chain[i] * factor[r.x] + b
    out[i] = chain[i]

    # The schedule.
    wide, block = isa.lanes * VECTORS, hl.Var("block")
    out.split(i, block, i, wide, hl.TailStrategy.RoundUp).vectorize(i, isa.lanes).unroll(i)
    chain.compute_at(out, block).vectorize(i, isa.lanes).unroll(i)
    chain.update().reorder(i, r.x).vectorize(i, isa.lanes).unroll(i)
    out.output_buffer().dim(0).set_min(0).set_extent(wide)
    return out, [factor, b]


def copy(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The bandwidth: one stream in, one out."""
    i = hl.Var("i")
    image = hl.ImageParam(hl.Float(32), 1, "image")
    out = hl.Func("copy")
    out[i] = image[i] + 1.0
    out.vectorize(i, isa.lanes * 4, hl.TailStrategy.ShiftInwards)
    return out, [image]
