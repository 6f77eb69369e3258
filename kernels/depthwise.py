"""The filtering stage: one Dk×Dk filter per input channel.

    out[c, x, y] = clip(bias[c] + Σ_j Σ_i weight[c, i, j] · input[c, x·s + i·d - left, y·s + j·d - top])

over the taps that fall inside the image; c is the channel, innermost in memory (NHWC). Shapes: input (C, W, H),
weight (C, kw, kh), bias (C), out a crop of (C, out_w, out_h), whose mins say where in the image it lies.

Two kernels share the algorithm:

- `inner`, for one kernel size and stride: every column its taps read is inside the image, so the taps of a row are
  unrolled and neighbouring pixels share their loads. Rows above and below the image are left out of the sum.
- `anywhere`, for every kernel size, stride, dilation and place: one pixel at a time, its columns trimmed like its
  rows. Borders and small images are its work too.

Trimming the sum needs no padded copy and no select per load.
"""

from __future__ import annotations

import halide as hl
from activations import clip
from targets import InstructionSet

SPECIALISED = [(size, stride) for size in (3, 5, 7) for stride in (1, 2)]
VARIANTS = ("wide", "narrow", "multiplied", "scalar")


def inner(isa: InstructionSet, size: int, stride: int) -> tuple[hl.Func, list]:
    """The kernel for size×size filters at this stride, dilation 1, where no tap leaves the image sideways.

    The caller guarantees isa.lanes channels and isa.depthwise_columns columns or more.
    """
    c, x, y = hl.Var("c"), hl.Var("x"), hl.Var("y")
    image, weight, bias = _images()
    left, top = hl.Param(hl.Int(32), "left"), hl.Param(hl.Int(32), "top")
    low, high = hl.Param(hl.Float(32), "low"), hl.Param(hl.Float(32), "high")

    # The algorithm.
    taps = hl.RDom([(0, size), (0, size)], "taps")
    row = y * stride + taps.y - top
    taps.where((row >= 0) & (row < image.dim(2).extent()))
    total = hl.Func("total")
    total[c, x, y] = bias[c]
    total[c, x, y] += weight[c, taps.x, taps.y] * image[c, x * stride + taps.x - left, _inside(row, image, 2)]
    out = hl.Func("depthwise")
    out[c, x, y] = clip(total[c, x, y], low, high)

    # The schedule: a tile of columns × one vector of channels in registers. Channels run inside columns: the other
    # order was a third slower.
    co, ci, xo, xi = hl.Var("co"), hl.Var("ci"), hl.Var("xo"), hl.Var("xi")
    shift = hl.TailStrategy.ShiftInwards
    out.split(c, co, ci, isa.lanes, shift).split(x, xo, xi, isa.depthwise_columns, shift)
    out.reorder(ci, xi, co, xo, y).vectorize(ci).unroll(xi)
    total.compute_at(out, co).vectorize(c, isa.lanes).unroll(x)
    total.update().reorder(c, taps.x, x, taps.y, y).vectorize(c, isa.lanes).unroll(x).unroll(taps.x)
    return out, [image, weight, bias, left, top, low, high]


def anywhere(isa: InstructionSet, variant: str) -> tuple[hl.Func, list]:
    """The kernel for any filter, stride, dilation and place. One pixel at a time; the variants differ in channels.

    `wide`: isa.depthwise_vectors vectors in flight, enough to hide the latency of the multiply-add. `narrow`: one
    vector. `multiplied`: one vector whose inputs are gathered, for a depth multiplier (output channel =
    c·multiplier + m). `scalar`: fewer channels than a vector. The caller guarantees the channels each needs.
    """
    c, x, y = hl.Var("c"), hl.Var("x"), hl.Var("y")
    image, weight, bias = _images()
    stride_x, stride_y = hl.Param(hl.Int(32), "stride_x"), hl.Param(hl.Int(32), "stride_y")
    dilation_x, dilation_y = hl.Param(hl.Int(32), "dilation_x"), hl.Param(hl.Int(32), "dilation_y")
    left, top = hl.Param(hl.Int(32), "left"), hl.Param(hl.Int(32), "top")
    multiplier = hl.Param(hl.Int(32), "multiplier")
    low, high = hl.Param(hl.Float(32), "low"), hl.Param(hl.Float(32), "high")

    # The algorithm.
    taps = hl.RDom([(0, weight.dim(1).extent()), (0, weight.dim(2).extent())], "taps")
    column = x * stride_x + taps.x * dilation_x - left
    row = y * stride_y + taps.y * dilation_y - top
    taps.where((row >= 0) & (row < image.dim(2).extent()))
    taps.where((column >= 0) & (column < image.dim(1).extent()))
    channel = c if variant in ("wide", "narrow") else c / multiplier
    total = hl.Func("total")
    total[c, x, y] = bias[c]
    total[c, x, y] += weight[c, taps.x, taps.y] * image[channel, _inside(column, image, 1), _inside(row, image, 2)]
    out = hl.Func("depthwise")
    out[c, x, y] = clip(total[c, x, y], low, high)

    # The schedule.
    if variant == "scalar":
        total.compute_at(out, c)
    else:
        width = isa.lanes * (isa.depthwise_vectors if variant == "wide" else 1)
        co, ci = hl.Var("co"), hl.Var("ci")
        out.split(c, co, ci, width, hl.TailStrategy.ShiftInwards).vectorize(ci, isa.lanes).unroll(ci)
        total.compute_at(out, co).vectorize(c, isa.lanes).unroll(c)
        total.update().reorder(c, taps.x, taps.y, x, y).vectorize(c, isa.lanes).unroll(c)
    return out, [image, weight, bias, stride_x, stride_y, dilation_x, dilation_y, left, top, multiplier, low, high]


def _images() -> tuple[hl.ImageParam, hl.ImageParam, hl.ImageParam]:
    image = hl.ImageParam(hl.Float(32), 3, "image")
    weight = hl.ImageParam(hl.Float(32), 3, "weight")
    bias = hl.ImageParam(hl.Float(32), 1, "bias")
    for buffer in (image, weight, bias):
        for k in range(buffer.dimensions()):
            buffer.dim(k).set_min(0)
    return image, weight, bias


def _inside(index: hl.Expr, image: hl.ImageParam, dimension: int) -> hl.Expr:
    # The sum never reaches a row or column outside; the clamp says so to Halide's bounds inference, and is gone from
    # the machine code.
    return hl.clamp(index, 0, image.dim(dimension).extent() - 1)
