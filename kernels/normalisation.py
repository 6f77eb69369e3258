"""Layer normalisation over the channels of each pixel (Ba et al., 2016), as ConvNeXt uses it.

    out[c, p] = (image[c, p] - μ[p]) / √(σ²[p] + ε) · gain[c] + offset[c]
    μ[p] = Σ_c image[c, p] / C        σ²[p] = Σ_c (image[c, p] - μ[p])² / C

Shapes: image (C, P), gain and offset (C). The variance is summed around the mean, not from squares, whose
difference loses every digit where the mean is large. A pixel's channels stay in the first cache between the
passes.
"""

from __future__ import annotations

import halide as hl

from targets import InstructionSet


def layer_norm(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel over all pixels of a block, any number of channels."""
    c, p, lane = hl.Var("c"), hl.Var("p"), hl.Var("lane")
    image = hl.ImageParam(hl.Float(32), 2, "image")
    gain, offset = hl.ImageParam(hl.Float(32), 1, "gain"), hl.ImageParam(hl.Float(32), 1, "offset")
    epsilon = hl.Param(hl.Float(32), "epsilon")
    channels = image.dim(0).extent()

    # The algorithm; a sum over channels is one vector of partial sums, then its lanes, then the channels
    # left.
    def over_channels(name: str, term: hl.Func) -> hl.Func:
        partial, total = hl.Func(f"{name}_partial"), hl.Func(name)
        whole = hl.RDom([(0, channels / isa.lanes)], "whole")
        lanes, rest = hl.RDom([(0, isa.lanes)], "lanes"), hl.RDom([(0, channels % isa.lanes)], "rest")
        partial[lane, p] = hl.f32(0)
        partial[lane, p] += term[whole.x * isa.lanes + lane, p]
        total[p] = hl.f32(0)
        total[p] += term[channels - 1 - rest.x, p]
        total[p] += partial[lanes.x, p]
        partial.compute_at(out, p).vectorize(lane, isa.lanes)
        partial.update().reorder(lane, whole.x, p).vectorize(lane, isa.lanes)
        total.compute_at(out, p)
        total.update(0).unscheduled()
        total.update(1).atomic().vectorize(lanes.x, isa.lanes)
        return total

    out = hl.Func("layer_norm")
    values, squares = hl.Func("values"), hl.Func("squares")
    values[c, p] = image[c, p]
    count = hl.cast(hl.Float(32), channels)
    total = over_channels("total", values)
    mean = total[p] / count
    squares[c, p] = (image[c, p] - mean) * (image[c, p] - mean)
    spread = over_channels("spread", squares)
    scale = hl.Func("scale")
    scale[p] = hl.f32(1) / hl.sqrt(spread[p] / count + epsilon)
    out[c, p] = (image[c, p] - mean) * scale[p] * gain[c] + offset[c]

    # The schedule.
    scale.compute_at(out, p)
    out.vectorize(c, isa.lanes, hl.TailStrategy.GuardWithIf)
    for dimension in (image.dim(0), image.dim(1), gain.dim(0), offset.dim(0)):
        dimension.set_min(0)
    out.output_buffer().dim(0).set_min(0)
    out.output_buffer().dim(1).set_min(0)
    return out, [image, gain, offset, epsilon]
