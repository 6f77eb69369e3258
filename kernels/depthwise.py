"""The filtering stage: one Dk×Dk filter per input channel.

    out[c, x, y] = clip(bias[c] + Σ_j Σ_i weight[c, i, j] · input[c, x·s + i·d - left, y·s + j·d - top])

over the taps that fall inside the image; c is the channel, innermost in memory (NHWC). Shapes: input (C, W,
H), weight (C, kw, kh), bias (C), out a crop of (C, out_w, out_h), whose mins say where in the image it lies.

Four kernels share the algorithm, each for the part of the image that it suits:

- `inner`, for one kernel size and stride, where no tap leaves the image: every tap unrolled, a tile of
  rows × columns shares its loads and weights.
- `border`, for the same sizes, a row of seven columns at a time: rows of taps beside the image are left out,
  columns beside it counted as zero. The rows and columns at the border, images that are hardly more than
  that, and all of the image where `inner` is no faster. Filters of the even size below, too: their missing
  column of taps sees zeros.
- `anywhere`, for every kernel size, stride, dilation and place: one pixel at a time, the sum trimmed to the
  image. Images of a few pixels, and side borders of a column or two.
- `flat`, for fewer channels than a vector has lanes, and for depth multipliers, whose inputs are copied for
  each filter: a row of pixels is a row of numbers, with zeros around.

No other image is copied to have zeros around it, and no load is a select: see `_or_zero`.

One Zen 4 core, peak 118 GFLOP/s, bands in the second-level cache: `inner` reaches 78 (3×3, 32 channels, 112
wide) and 70 GFLOP/s (128, 56 wide). Of the tiles tried (1 or 2 rows × 4 or 8 columns × 1 or 2 vectors) 2×4×1
was best or within noise on all of six shapes, AVX-512 and AVX2. Few channels
are better off with 2×7×1 where there are registers. 3×3 at stride 2 stays at 40 to 45 % with 2×2, 2×3 and 1×4
tiles as with 2×4: it reads four numbers for each it writes, from the second-level cache.

`border` was 2×7 with all taps unrolled, and zeros for those above and below the image too. Row by row, a loop
over the rows of taps that the image has, 5×5 at 7×7 takes 0.77 of that, at 14×14 0.85, 7×7 at 7×7 0.70, 3×3
at 7×7 0.93 (AVX-512; AVX2, where it was 2×4: 0.74, 0.82, 0.61 and 0.89), and at stride 1 from 5×5 on it
leaves nothing to `inner`: 5×5 over all of 56×56 takes 0.88 of what both together took, 7×7 0.85.
"""

from __future__ import annotations

import halide as hl

from activations import clip
from targets import InstructionSet

SPECIALISED = [(size, stride) for size in (3, 5, 7) for stride in (1, 2)]
VARIANTS = ("wide", "narrow")


def widths(isa: InstructionSet, stride: int) -> dict[str, int]:
    """The kinds of `inner` at this stride: what their names end in, and their columns."""
    return {"": isa.depthwise_columns} | (
        {"_wide": isa.depthwise_wide_columns} if isa.depthwise_wide_columns and stride == 1 else {}
    )


# Of a tile of `border`, and its fewest: the width of a MobileNet's last images, half of those before.
BORDER_COLUMNS = 7


def has_inner(isa: InstructionSet, size: int, stride: int) -> bool:
    """Whether there is an `inner`: not where `border` is as fast on all of an image."""
    return not (isa.depthwise_wide_columns and size > 3 and stride == 1)


def has_narrow(isa: InstructionSet) -> bool:
    """Whether there is a `border` for four to six columns; else those are made as seven."""
    return isa.depthwise_columns < BORDER_COLUMNS and not isa.depthwise_wide_columns


def inner(isa: InstructionSet, size: int, stride: int, columns: int) -> tuple[hl.Func, list]:
    """The kernel for size×size filters at this stride, dilation 1, where no tap leaves the image.

    The caller guarantees isa.lanes channels, `columns` columns and isa.depthwise_rows rows or more.
    """
    return _tiled(isa, size, stride, isa.depthwise_rows, columns, masked=False)


def border(isa: InstructionSet, size: int, stride: int) -> tuple[hl.Func, list]:
    """The kernel for size×size filters at this stride, dilation 1; taps beside the image count zero.

    Of an odd size or one less. The caller guarantees isa.lanes channels and BORDER_COLUMNS columns or more.
    """
    return _tiled(isa, size, stride, 1, BORDER_COLUMNS, masked=True)


def narrow(isa: InstructionSet, size: int, stride: int) -> tuple[hl.Func, list]:
    """The same for isa.depthwise_columns columns and isa.depthwise_rows rows or more."""
    return _tiled(isa, size, stride, isa.depthwise_rows, isa.depthwise_columns, masked=True)


def _tiled(
    isa: InstructionSet, size: int, stride: int, rows: int, columns: int, *, masked: bool
) -> tuple[hl.Func, list]:
    # The algorithm of `inner`, `border` and `narrow`.
    c, x, y = hl.Var("c"), hl.Var("x"), hl.Var("y")
    image, weight, bias = _images()
    left, top = hl.Param(hl.Int(32), "left"), hl.Param(hl.Int(32), "top")
    low, high = hl.Param(hl.Float(32), "low"), hl.Param(hl.Float(32), "high")
    taps = hl.RDom([(0, size), (0, size)], "taps")
    column, row = x * stride + taps.x - left, y * stride + taps.y - top
    trimmed = masked and rows == 1
    tap_x = taps.x
    if trimmed:
        tall, wide = weight.dim(2).extent(), weight.dim(1).extent()
        taps.where((row >= 0) & (row < image.dim(2).extent()) & (taps.y < tall))
        # Of an even filter's missing column the weights are those before, and the pixels zero.
        tap_x = hl.min(taps.x, wide - 1)
    total, out = hl.Func("total"), hl.Func("depthwise")
    total[c, x, y] = bias[c]
    exists = (taps.x < size - 1) | (weight.dim(1).extent() == size) if trimmed else None
    value = _or_zero(image, c, column, row, exists) if masked else image[c, column, row]
    total[c, x, y] += weight[c, tap_x, taps.y] * value
    out[c, x, y] = clip(total[c, x, y], low, high)

    # The schedule.
    co, ci, xo, xi, yo, yi = (hl.Var(name) for name in ("co", "ci", "xo", "xi", "yo", "yi"))
    shift = hl.TailStrategy.ShiftInwards
    out.split(c, co, ci, isa.lanes, shift)
    out.split(x, xo, xi, columns, shift).split(y, yo, yi, rows, shift)
    # Channels run inside columns: the next vector lies in the next cache line.
    out.reorder(ci, xi, yi, co, xo, yo).vectorize(ci).unroll(xi).unroll(yi)
    total.compute_at(out, co).vectorize(c, isa.lanes).unroll(x).unroll(y)
    update = total.update().reorder(c, x, y, taps.x, taps.y)
    update.vectorize(c, isa.lanes).unroll(x).unroll(y).unroll(taps.x)
    if trimmed:
        # Without this the filters of full size take up to 1.16 of their time (AVX-512), 1.56 (AVX2).
        out.specialize((weight.dim(1).extent() == size) & (weight.dim(2).extent() == size))
    else:
        update.unroll(taps.y)
    return out, [image, weight, bias, left, top, low, high]


def _or_zero(
    image: hl.ImageParam, c: hl.Var, column: hl.Expr, row: hl.Expr, exists: hl.Expr | None
) -> hl.Expr:
    # Masks of a column's, and a row's, bits, the same for every channel: they leave the innermost loop, where
    # a load and one AND of two or three operands are left of it. A select would be a branch for each load.
    # Where `exists` says whether there is such a column of taps, rows need no mask.
    def mask(condition: hl.Expr) -> hl.Expr:
        return hl.select(condition, hl.cast(hl.Int(32), -1), hl.cast(hl.Int(32), 0))

    def inside(index: hl.Expr, dimension: int) -> hl.Expr:
        return (index >= 0) & (index < image.dim(dimension).extent())

    value = image[c, _inside(column, image, 1), _inside(row, image, 2)]
    masks = mask(inside(column, 1)) & mask(inside(row, 2) if exists is None else exists)
    bits = hl.reinterpret(hl.Int(32), value) & masks
    return hl.reinterpret(hl.Float(32), bits)


def flat(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel for fewer channels than a vector has lanes, any filter, stride and dilation.

    A row of pixels is a row of numbers here, and a vector holds several pixels: number f of a row belongs to
    channel f mod channels, and its tap t lies offsets[t] further in an image that has its padding around it.
    The filters lie there once, and their begin once more, so that a vector may start with any channel. Of 8
    rows, for which a tap's filter is loaded once, most loads cross a cache line: it stays at half the peak.
    One number at a time, 7×7 on 3 channels of 112×112 took 2.3 ms, PyTorch takes 0.21, this 0.09.

    image: (numbers, rows); weight: (channels + lanes, taps); bias: (channels + lanes); offsets: (taps), at
    most `reach`; out: (lanes, vectors, rows), whose first number is number `first` of a row.
    """
    lane, vector, y = hl.Var("lane"), hl.Var("vector"), hl.Var("y")
    image, weight = hl.ImageParam(hl.Float(32), 2, "image"), hl.ImageParam(hl.Float(32), 2, "weight")
    bias, offsets = hl.ImageParam(hl.Float(32), 1, "bias"), hl.ImageParam(hl.Int(32), 1, "offsets")
    for buffer in (image, weight, bias, offsets):
        for k in range(buffer.dimensions()):
            buffer.dim(k).set_min(0)
    channels, first = hl.Param(hl.Int(32), "channels"), hl.Param(hl.Int(32), "first")
    reach = hl.Param(hl.Int(32), "reach")
    low, high = hl.Param(hl.Float(32), "low"), hl.Param(hl.Float(32), "high")

    # The algorithm.
    taps = hl.RDom([(0, offsets.dim(0).extent())], "taps")
    offset = hl.unsafe_promise_clamped(offsets[taps], 0, reach)
    channel = (first + vector * isa.lanes) % channels + lane
    total, out = hl.Func("total"), hl.Func("depthwise")
    total[lane, vector, y] = bias[channel]
    total[lane, vector, y] += weight[channel, taps] * image[vector * isa.lanes + lane + offset, y]
    out[lane, vector, y] = clip(total[lane, vector, y], low, high)

    # The schedule.
    out.output_buffer().dim(0).set_bounds(0, isa.lanes)
    yo, yi = hl.Var("yo"), hl.Var("yi")
    rows = out.output_buffer().dim(2).extent()

    def schedule(stage: hl.Stage, count: int) -> None:
        stage.split(y, yo, yi, count, hl.TailStrategy.ShiftInwards).reorder(lane, yi, vector, yo)
        stage.vectorize(lane, isa.lanes).unroll(yi)

    for count in (8, 4):
        schedule(out.specialize(rows >= count), count)
    schedule(out, 1)
    total.compute_at(out, vector).vectorize(lane, isa.lanes).unroll(y)
    total.update().reorder(lane, y, taps).vectorize(lane, isa.lanes).unroll(y)
    return out, [image, weight, bias, offsets, channels, first, reach, low, high]


def anywhere(isa: InstructionSet, variant: str) -> tuple[hl.Func, list]:
    """The kernel for any filter, stride, dilation and place. One pixel at a time; the variants differ in
    channels.

    `wide`: isa.depthwise_vectors vectors in flight, enough to hide the latency of the multiply-add.
    `narrow`: one vector. The caller guarantees the channels each needs.
    """
    c, x, y = hl.Var("c"), hl.Var("x"), hl.Var("y")
    image, weight, bias = _images()
    stride_x, stride_y = hl.Param(hl.Int(32), "stride_x"), hl.Param(hl.Int(32), "stride_y")
    dilation_x, dilation_y = hl.Param(hl.Int(32), "dilation_x"), hl.Param(hl.Int(32), "dilation_y")
    left, top = hl.Param(hl.Int(32), "left"), hl.Param(hl.Int(32), "top")
    low, high = hl.Param(hl.Float(32), "low"), hl.Param(hl.Float(32), "high")

    # The algorithm.
    taps = hl.RDom([(0, weight.dim(1).extent()), (0, weight.dim(2).extent())], "taps")
    column = x * stride_x + taps.x * dilation_x - left
    row = y * stride_y + taps.y * dilation_y - top
    taps.where((row >= 0) & (row < image.dim(2).extent()))
    taps.where((column >= 0) & (column < image.dim(1).extent()))
    total = hl.Func("total")
    total[c, x, y] = bias[c]
    total[c, x, y] += weight[c, taps.x, taps.y] * image[c, _inside(column, image, 1), _inside(row, image, 2)]
    out = hl.Func("depthwise")
    out[c, x, y] = clip(total[c, x, y], low, high)

    # The schedule.
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
