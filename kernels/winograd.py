"""The standard 3×3 convolution with fewer multiplications: the transforms before and after its products.

In one dimension `outputs` neighbouring results of a 3-tap filter g over the inputs d are

    out = OUT · groups((G g) ⊙ (IN d))

with fewer products than 3 for each result, and in two dimensions the same along both. IN and OUT stand below,
G in `runtime/winograd.cpp`, which transforms the weights once. A product of numbers becomes one of matrices
over all channels; they are the pointwise kernels'.

Stride 1: four results by 6 products instead of 12, so 36 instead of 144 for 4×4: F(4, 3) of Winograd, with
the matrices of Lavin and Gray (Fast Algorithms for Convolutional Neural Networks, 2016).

Stride 2: the even inputs meet g0 and g2, the odd ones g1 alone. Two results of the two even taps take three
products, F(2, 2), and two more for the odd tap:

    out0 = [(d0 - d2) g0 + d1 g1] + d2 (g0 + g2)
    out1 =                          d2 (g0 + g2) + [(d4 - d2) g2 + d3 g1]

5 instead of 6, so 25 instead of 36 for 2×2. What stands in brackets is one sum over twice the channels, so
only 9 sums are written for the 4 results.

Shapes: image (C, x, y) from the first tile's corner, out (C, product, tile); sums (N, group, tile), bias (N),
out (N, x, y, tile). Neighbouring tiles read from every fourth pixel on.
"""

from __future__ import annotations

from dataclasses import dataclass

import halide as hl

from activations import clip
from targets import InstructionSet

STEP = 4  # input pixels from tile to tile: at stride 1 four results' width, at stride 2 two results'

Matrix = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Scheme:
    """One dimension: what is made of the inputs, how many products go into each sum, and results of sums."""

    products: Matrix  # IN: a row for each product, over the inputs
    groups: tuple[int, ...]  # how many neighbouring products each sum takes
    results: Matrix  # OUT: a row for each result, over the sums


SCHEMES = {
    1: Scheme(
        products=(
            (4, 0, -5, 0, 1, 0),
            (0, -4, -4, 1, 1, 0),
            (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ),
        groups=(1, 1, 1, 1, 1, 1),
        results=((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    ),
    2: Scheme(
        products=((1, 0, -1, 0, 0), (0, 1, 0, 0, 0), (0, 0, 1, 0, 0), (0, 0, -1, 0, 1), (0, 0, 0, 1, 0)),
        groups=(2, 1, 2),
        results=((1, 1, 0), (0, 1, 1)),
    ),
}


def order(groups: tuple[int, ...]) -> list[tuple[int, int]]:
    """The products (row, column) in the order in which the sums take them: group by group."""
    starts = [sum(groups[:g]) for g in range(len(groups))]
    spans = [range(start, start + size) for start, size in zip(starts, groups, strict=True)]
    return [(i, j) for rows in spans for columns in spans for i in rows for j in columns]


def before(isa: InstructionSet, stride: int) -> tuple[hl.Func, list]:
    """The kernel that makes the factors of all products of some neighbouring tiles."""
    scheme = SCHEMES[stride]
    size = len(scheme.products[0])
    c, k, t, i, x = hl.Var("c"), hl.Var("k"), hl.Var("t"), hl.Var("i"), hl.Var("x")
    image = hl.ImageParam(hl.Float(32), 3, "image")

    # The algorithm: along y, then along x.
    columns, out = hl.Func("columns"), hl.Func("before")
    pixels = [image[c, t * STEP + x, y] for y in range(size)]
    columns[c, x, i, t] = hl.mux(i, [_sum(row, pixels) for row in scheme.products])
    placed = order(scheme.groups)
    made = [_sum(scheme.products[j], [columns[c, b, i_, t] for b in range(size)]) for i_, j in placed]
    out[c, k, t] = hl.mux(k, made)

    # The schedule: a vector of channels of one tile.
    co, ci = hl.Var("co"), hl.Var("ci")
    out.bound(k, 0, len(placed)).split(c, co, ci, isa.lanes, hl.TailStrategy.ShiftInwards)
    out.reorder(ci, k, co, t).vectorize(ci).unroll(k)
    columns.compute_at(out, co).bound_extent(x, size).bound_extent(i, size)
    columns.reorder(c, i, x).vectorize(c, isa.lanes).unroll(i).unroll(x)
    for dimension in (*(image.dim(k) for k in range(3)), *(out.output_buffer().dim(k) for k in range(3))):
        dimension.set_min(0)
    return out, [image]


def after(isa: InstructionSet, stride: int) -> tuple[hl.Func, list]:
    """The kernel that makes the results of some tiles of their sums."""
    scheme = SCHEMES[stride]
    count, size = len(scheme.results), len(scheme.groups)
    d, x, y, t, j = hl.Var("d"), hl.Var("x"), hl.Var("y"), hl.Var("t"), hl.Var("j")
    sums = hl.ImageParam(hl.Float(32), 3, "sums")
    bias = hl.ImageParam(hl.Float(32), 1, "bias")
    low, high = hl.Param(hl.Float(32), "low"), hl.Param(hl.Float(32), "high")

    # The algorithm: along y, then along x.
    columns, out = hl.Func("columns"), hl.Func("after")
    down = [sums[d, i * size + j, t] for i in range(size)]
    columns[d, j, y, t] = hl.mux(y, [_sum(row, down) for row in scheme.results])
    across = [columns[d, b, y, t] for b in range(size)]
    total = hl.mux(x, [_sum(row, across) for row in scheme.results])
    out[d, x, y, t] = clip(total + bias[d], low, high)

    # The schedule: a vector of channels of one tile.
    do, di = hl.Var("do"), hl.Var("di")
    out.bound(x, 0, count).bound(y, 0, count).split(d, do, di, isa.lanes, hl.TailStrategy.ShiftInwards)
    out.reorder(di, x, y, do, t).vectorize(di).unroll(x).unroll(y)
    columns.compute_at(out, do).bound_extent(j, size).bound_extent(y, count)
    columns.reorder(d, y, j).vectorize(d, isa.lanes).unroll(y).unroll(j)
    dimensions = (
        *(sums.dim(k) for k in range(3)),
        bias.dim(0),
        *(out.output_buffer().dim(k) for k in range(4)),
    )
    for dimension in dimensions:
        dimension.set_min(0)
    return out, [sums, bias, low, high]


def _sum(row: tuple[int, ...], values: list[hl.Expr]) -> hl.Expr:
    """The values times the row's factors, without those of zero: 0 · inf would be NaN."""
    total = None
    for factor, value in zip(row, values, strict=True):
        if factor == 0:
            continue
        if total is None:
            total = value if factor == 1 else value * hl.f32(factor)
        elif abs(factor) == 1:
            total = total + value if factor > 0 else total - value
        else:
            total = total + value * hl.f32(factor)
    assert total is not None
    return total
