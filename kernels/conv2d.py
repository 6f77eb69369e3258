"""The standard convolution: N filters Dk×Dk×M.

    out[d, x, y] = clip(bias[d] + Σ_j Σ_i Σ_m weight[m, i, j, d] · input[m, X, Y], low, high)
    X = x·s + i·dilation - left,  Y = y·s + j·dilation - top

over the taps inside the image. A row of the image is one flat line of W·M numbers, so the sum over i and m
at dilation 1 is one contiguous run of `run` = kw·M numbers; otherwise `run` is M and `steps` = kw runs lie
`hop` numbers apart. Shapes: input (W·M, H), weight packed as panels (width, run, steps, kh, N/width), bias
(N), out a crop of (N, out_w, out_h) whose mins say where in the image it lies. A group is a call of its own,
its input a pointer to its first channel.

The micro-tile is the pointwise kernel's, over neighbouring columns; no column is copied (no im2col).
"""

from __future__ import annotations

import halide as hl

from activations import clip
from targets import InstructionSet


def conv2d(isa: InstructionSet, width: int, columns: int) -> tuple[hl.Func, list]:
    """The micro-kernel of columns × width.

    Several columns at a time must lie where no tap leaves the image sideways; one column alone (columns=1)
    may lie anywhere, its runs trimmed to the image. Rows are trimmed in both.
    """
    d, x, y = hl.Var("d"), hl.Var("x"), hl.Var("y")
    image = hl.ImageParam(hl.Float(32), 2, "image")
    weight = hl.ImageParam(hl.Float(32), 5, "weight")
    bias = hl.ImageParam(hl.Float(32), 1, "bias")
    # Numbers from one column to the next, from a column's first tap to the image's edge, from one run to the
    # next.
    stride_x, left, hop = (
        hl.Param(hl.Int(32), "stride_x"),
        hl.Param(hl.Int(32), "left"),
        hl.Param(hl.Int(32), "hop"),
    )
    stride_y, top, dilation_y = (
        hl.Param(hl.Int(32), "stride_y"),
        hl.Param(hl.Int(32), "top"),
        hl.Param(hl.Int(32), "dilation_y"),
    )
    low, high = hl.Param(hl.Float(32), "low"), hl.Param(hl.Float(32), "high")

    # The algorithm.
    taps = hl.RDom([(0, weight.dim(k).extent()) for k in (1, 2, 3)], "taps")
    place = x * stride_x + taps.y * hop + taps.x - left
    row = y * stride_y + taps.z * dilation_y - top
    taps.where((row >= 0) & (row < image.dim(1).extent()))
    if columns == 1:
        taps.where((place >= 0) & (place < image.dim(0).extent()))
        place = hl.clamp(place, 0, image.dim(0).extent() - 1)
    total, out = hl.Func("total"), hl.Func("conv2d")
    total[d, x, y] = bias[d]
    source = image[place, hl.clamp(row, 0, image.dim(1).extent() - 1)]
    total[d, x, y] += weight[d % width, taps.x, taps.y, taps.z, d // width] * source
    out[d, x, y] = clip(total[d, x, y], low, high)

    # The schedule.
    lanes = min(isa.lanes, width)
    do, di, xo, xi = hl.Var("do"), hl.Var("di"), hl.Var("xo"), hl.Var("xi")
    exact = hl.TailStrategy.RoundUp
    out.split(d, do, di, width, exact).split(x, xo, xi, columns, exact)
    out.reorder(di, xi, xo, y, do).vectorize(di, lanes).unroll(di).unroll(xi)
    total.compute_at(out, xo).vectorize(d, lanes).unroll(d).unroll(x)
    total.update().reorder(d, x, taps.x, taps.y, taps.z, y).vectorize(d, lanes).unroll(d).unroll(x)

    # Three channels at stride 1, 2 and 4, a network's first layer: the columns of a tile lie a known distance
    # apart and need one address, not twelve, made anew for each row of taps. 3→32 at 224×224 took 1.11 times
    # as long without, 3→16 1.17, 3→64 7×7 1.07, 3→96 4×4 1.09 (AVX-512; each kernel is 4 to 7 kB larger).
    # With the taps of a row unrolled, too, the compiler kept each number for the columns that share it, on
    # the stack: no gain.
    if columns > 1:
        for apart in (3, 6, 12):
            out.specialize(stride_x == apart)

    for buffer in (image, weight, bias):
        for k in range(buffer.dimensions()):
            buffer.dim(k).set_min(0)
    weight.dim(0).set_extent(width)
    weight.dim(1).set_stride(width)
    channels, across = out.output_buffer().dim(0), out.output_buffer().dim(1)
    channels.set_min(0).set_extent((channels.extent() // width) * width)
    across.set_extent((across.extent() // columns) * columns)
    return out, [image, weight, bias, stride_x, left, hop, stride_y, top, dilation_y, low, high]
