"""Pooling, over a window and over the whole image, and the gate that the latter feeds.

    mean:    out[c] = Σ_p image[c, p] · share        (share = 1/P)
    scale:   out[c, p] = image[c, p] · gate[c]
    largest: out[c, x] = max_k,l window[c, x, k, l]
    average: out[c, x] = Σ_k,l window[c, x, k, l] · share

Shapes: image (C, P), gate and mean (C); window (C, X, Dk, Dk) is a view of the image, with the strides
of the pooling. Mean and scale are the two halves of squeeze-and-excitation that are not pointwise layers
(Hu et al., 2018).
"""

from __future__ import annotations

from collections.abc import Callable

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


def largest(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel of the maximum over a window that lies inside the image; NaN stays NaN."""

    def merge(best: hl.Expr, value: hl.Expr) -> hl.Expr:
        # Ordered comparisons alone: `>=` would become `not <`, which a NaN passes. Where neither is the
        # smaller and they are not equal, one of the two is NaN, and so is their sum.
        other = hl.strict_float(hl.select(best == value, best, best + value))
        larger = hl.strict_float(hl.select(value < best, best, other))
        return hl.strict_float(hl.select(best < value, value, larger))

    return _pooled(isa, hl.f32(float("-inf")), merge)


def average(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel of the sum over a window that lies inside the image, times a share."""
    return _pooled(isa, hl.f32(0), lambda total, value: total + value)


def _pooled(
    isa: InstructionSet, start: hl.Expr, merge: Callable[[hl.Expr, hl.Expr], hl.Expr]
) -> tuple[hl.Func, list]:
    c, x = hl.Var("c"), hl.Var("x")
    window, share = hl.ImageParam(hl.Float(32), 4, "window"), hl.Param(hl.Float(32), "share")

    # The algorithm.
    taps = hl.RDom([(0, window.dim(2).extent()), (0, window.dim(3).extent())], "taps")
    merged, out = hl.Func("merged"), hl.Func("pooled")
    merged[c, x] = start
    merged[c, x] = merge(merged[c, x], window[c, x, taps.x, taps.y])
    out[c, x] = merged[c, x] * share

    # The schedule: a vector of channels of one pixel stays in a register while the taps pass.
    co, ci = hl.Var("co"), hl.Var("ci")
    guard = hl.TailStrategy.GuardWithIf
    out.split(c, co, ci, isa.lanes, guard).vectorize(ci).reorder(ci, co, x)
    merged.compute_at(out, co).vectorize(c, isa.lanes, guard)
    merged.update().reorder(c, taps.x, taps.y, x).vectorize(c, isa.lanes, guard)
    dimensions = *(window.dim(k) for k in range(4)), *(out.output_buffer().dim(k) for k in (0, 1))
    for dimension in dimensions:
        dimension.set_min(0)
    return out, [window, share]
