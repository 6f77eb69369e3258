"""The filtering stage: one Dk×Dk filter per input channel.

    out[c, x, y] = clip(bias[c] + Σ_j Σ_i weight[c, i, j] · input[c, x·s + i·d - left, y·s + j·d - top])

over the taps that fall inside the image; c is the channel, innermost in memory (NHWC). Shapes: input (C, W,
H), weight (C, kw, kh), bias (C), out a crop of (C, out_w, out_h), whose mins say where in the image it lies.

Three kernels share the algorithm, each for the part of the image that it suits:

- `inner`, for one kernel size and stride, where no tap leaves the image: every tap unrolled, a tile of
  rows × columns shares its loads and weights.
- `edge`, for one kernel size and stride, where no tap leaves the image sideways: the rows above and
  below the image are left out of the sum. The top and bottom border.
- `anywhere`, for every kernel size, stride, dilation and place: one pixel at a time, its columns
  trimmed like its rows. The left and right border, and small images.

Trimming the sum needs no padded copy and no select per load.

One Zen 4 core, peak 118 GFLOP/s, 3×3 at stride 1, bands in the second-level cache: `edge` alone on all rows
reached 62 (32 channels, 112 wide) and 51 (128, 56 wide) GFLOP/s; `inner` 78 and 70. Of the tiles tried (1 or
2 rows × 4 or 8 columns × 1 or 2 vectors) 2×4×1 was best or within noise on all of six shapes, AVX-512 and
AVX2. Images of 14 and 7 columns and few channels are better off with 2×7×1 where there are registers: 5×5 at
7×7 went from 51 to 60 % of the peak, 7×7 on 40 channels of 56×56 from 42 to 56; 144 channels of 56×56 fell
from 75 to 67.
"""

from __future__ import annotations

import halide as hl

from activations import clip
from targets import InstructionSet

SPECIALISED = [(size, stride) for size in (3, 5, 7) for stride in (1, 2)]
VARIANTS = ("wide", "narrow", "multiplied", "scalar")


def widths(isa: InstructionSet, stride: int) -> dict[str, int]:
    """The kinds of `inner` at this stride: what their names end in, and their columns."""
    return {"": isa.depthwise_columns} | (
        {"_wide": isa.depthwise_wide_columns} if isa.depthwise_wide_columns and stride == 1 else {}
    )


def inner(isa: InstructionSet, size: int, stride: int, columns: int) -> tuple[hl.Func, list]:
    """The kernel for size×size filters at this stride, dilation 1, where no tap leaves the image.

    The caller guarantees isa.lanes channels, `columns` columns and isa.depthwise_rows rows or more.
    """
    out, total, taps, arguments, (c, x, y) = _filter(size, stride, trim_rows=False)
    co, ci, xo, xi, yo, yi = (hl.Var(name) for name in ("co", "ci", "xo", "xi", "yo", "yi"))
    shift = hl.TailStrategy.ShiftInwards
    out.split(c, co, ci, isa.lanes, shift)
    out.split(x, xo, xi, columns, shift).split(y, yo, yi, isa.depthwise_rows, shift)
    # Channels run inside columns: the next vector lies in the next cache line.
    out.reorder(ci, xi, yi, co, xo, yo).vectorize(ci).unroll(xi).unroll(yi)
    total.compute_at(out, co).vectorize(c, isa.lanes).unroll(x).unroll(y)
    update = total.update().reorder(c, x, y, taps.x, taps.y)
    update.vectorize(c, isa.lanes).unroll(x).unroll(y).unroll(taps.x).unroll(taps.y)
    return out, arguments


def edge(isa: InstructionSet, size: int, stride: int) -> tuple[hl.Func, list]:
    """The kernel for size×size filters at this stride, dilation 1, where no tap leaves the image sideways.

    The caller guarantees isa.lanes channels and isa.depthwise_columns columns or more.
    """
    out, total, taps, arguments, (c, x, y) = _filter(size, stride, trim_rows=True)
    co, ci, xo, xi = hl.Var("co"), hl.Var("ci"), hl.Var("xo"), hl.Var("xi")
    shift = hl.TailStrategy.ShiftInwards
    out.split(c, co, ci, isa.lanes, shift).split(x, xo, xi, isa.depthwise_columns, shift)
    out.reorder(ci, xi, co, xo, y).vectorize(ci).unroll(xi)
    total.compute_at(out, co).vectorize(c, isa.lanes).unroll(x)
    total.update().reorder(c, taps.x, x, taps.y, y).vectorize(c, isa.lanes).unroll(x).unroll(taps.x)
    return out, arguments


def _filter(size: int, stride: int, *, trim_rows: bool) -> tuple:
    # The algorithm of `inner` and `edge`.
    c, x, y = hl.Var("c"), hl.Var("x"), hl.Var("y")
    image, weight, bias = _images()
    left, top = hl.Param(hl.Int(32), "left"), hl.Param(hl.Int(32), "top")
    low, high = hl.Param(hl.Float(32), "low"), hl.Param(hl.Float(32), "high")
    taps = hl.RDom([(0, size), (0, size)], "taps")
    row = y * stride + taps.y - top
    if trim_rows:
        taps.where((row >= 0) & (row < image.dim(2).extent()))
        row = _inside(row, image, 2)
    total, out = hl.Func("total"), hl.Func("depthwise")
    total[c, x, y] = bias[c]
    total[c, x, y] += weight[c, taps.x, taps.y] * image[c, x * stride + taps.x - left, row]
    out[c, x, y] = clip(total[c, x, y], low, high)
    return out, total, taps, [image, weight, bias, left, top, low, high], (c, x, y)


def anywhere(isa: InstructionSet, variant: str) -> tuple[hl.Func, list]:
    """The kernel for any filter, stride, dilation and place. One pixel at a time; the variants differ in
    channels.

    `wide`: isa.depthwise_vectors vectors in flight, enough to hide the latency of the multiply-add.
    `narrow`: one vector. `multiplied`: one vector whose inputs are gathered, for a depth multiplier (output
    channel = c·multiplier + m). `scalar`: fewer channels than a vector. The caller guarantees the channels
    each needs.
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
    total[c, x, y] += (
        weight[c, taps.x, taps.y] * image[channel, _inside(column, image, 1), _inside(row, image, 2)]
    )
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
    return out, [
        image,
        weight,
        bias,
        stride_x,
        stride_y,
        dilation_x,
        dilation_y,
        left,
        top,
        multiplier,
        low,
        high,
    ]


def _images() -> tuple[hl.ImageParam, hl.ImageParam, hl.ImageParam]:
    image = hl.ImageParam(hl.Float(32), 3, "image")
    weight = hl.ImageParam(hl.Float(32), 3, "weight")
    bias = hl.ImageParam(hl.Float(32), 1, "bias")
    for buffer in (image, weight, bias):
        for k in range(buffer.dimensions()):
            buffer.dim(k).set_min(0)
    return image, weight, bias


def _inside(index: hl.Expr, image: hl.ImageParam, dimension: int) -> hl.Expr:
    # The sum never reaches a row or column outside; the clamp says so to Halide's bounds inference, and is
    # gone from the machine code.
    return hl.clamp(index, 0, image.dim(dimension).extent() - 1)
