"""Global pooling, and the gate it feeds.

    mean:  out[c] = Σ_p image[c, p] · share        (share = 1/P)
    scale: out[c, p] = image[c, p] · gate[c]

Shapes: image (C, P), gate and mean (C). The two halves of squeeze-and-excitation that are not pointwise
layers (Hu et al., 2018).
"""

from __future__ import annotations

import halide as hl

from targets import InstructionSet


def mean(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel of the mean over all pixels; the caller guarantees isa.lanes channels or more."""
    c = hl.Var("c")
    image, share = hl.ImageParam(hl.Float(32), 2, "image"), hl.Param(hl.Float(32), "share")

    # The algorithm.
    p = hl.RDom([(0, image.dim(1).extent())], "p")
    total, out = hl.Func("total"), hl.Func("mean")
    total[c] = hl.f32(0)
    total[c] += image[c, p.x]
    out[c] = total[c] * share

    # The schedule: one vector of channels down all pixels.
    co, ci = hl.Var("co"), hl.Var("ci")
    out.split(c, co, ci, isa.lanes, hl.TailStrategy.ShiftInwards).vectorize(ci)
    total.compute_at(out, co).vectorize(c, isa.lanes)
    total.update().reorder(c, p.x).vectorize(c, isa.lanes)
    for dimension in (image.dim(0), image.dim(1), out.output_buffer().dim(0)):
        dimension.set_min(0)
    return out, [image, share]


def scale(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel that multiplies every pixel by a gate."""
    c, p = hl.Var("c"), hl.Var("p")
    image, gate = hl.ImageParam(hl.Float(32), 2, "image"), hl.ImageParam(hl.Float(32), 1, "gate")
    out = hl.Func("scale")
    out[c, p] = image[c, p] * gate[c]
    out.vectorize(c, isa.lanes, hl.TailStrategy.GuardWithIf)
    for dimension in (image.dim(0), image.dim(1), gate.dim(0), *(out.output_buffer().dim(k) for k in (0, 1))):
        dimension.set_min(0)
    return out, [image, gate]
