"""Gradients of the two stages, on images that already have zeros around them.

    depthwise, weights: out[c, i, j] = Σ_x Σ_y gradient[c, x, y] · image[c, x·s + i·d, y·s + j·d]
    depthwise, input:   out[c, u, v] = Σ_i Σ_j weight[c, i, j] · gradient[c, (u - i·d)/s, (v - j·d)/s]
    pointwise, weights: out[m, n]    = init[m, n] + Σ_p image[m, p] · gradient[n, p]

The second sums over the taps whose place is a whole number. At stride 1 it is the forward kernel with the
filter turned, and at stride 2 (`depthwise_input`) each of the four parities of (u, v) is a little
convolution with a quarter of the taps: out is (C, 2, W/2, 2, H/2), a parity and a place for each axis. The
pointwise input's gradient is the pointwise kernel with the weights transposed.

The images are bands of rows that a loop has just written into scratch, with room for whole vectors. A band's
sum starts at zero and is then added to those before it, so that rounding grows with the pixels of a band and
the number of bands, not with their product.

Both depthwise gradients together on one Zen 4 core (batch 4, images from memory, MobileNet's shapes,
processor time): 3×3 at stride 1 21 to 42 GFLOP/s, 1.1 to 2.2 times PyTorch's speed; 5×5 27 to 50, 4.3 to 7.1
times; 7×7 29 to 66, 4.6 to 23 times. Memory bounds the first: two images are read and one is written.
"""

from __future__ import annotations

import halide as hl

from activations import f32
from targets import InstructionSet

SIZES = (3, 5, 7)  # kernels whose weights' gradient is specialised, at dilation 1
PARITY_SIZES = (3, 5)  # kernels whose input's gradient at stride 2 is specialised


def depthwise_weight(isa: InstructionSet, size: int | None) -> tuple[hl.Func, list]:
    """The kernel of the weights' gradient: size×size taps at dilation 1, or any (None).

    A specialised kernel keeps as many rows of taps in registers as there is room for and passes the image
    once for each; loads are shared only through the cache, for on Zen 4 one load goes with each multiply-add
    anyway.
    """
    c, i, j = hl.Var("c"), hl.Var("i"), hl.Var("j")
    image, gradient = hl.ImageParam(hl.Float(32), 3, "image"), hl.ImageParam(hl.Float(32), 3, "gradient")
    stride_x, stride_y = hl.Param(hl.Int(32), "stride_x"), hl.Param(hl.Int(32), "stride_y")
    dilation_x, dilation_y = hl.Param(hl.Int(32), "dilation_x"), hl.Param(hl.Int(32), "dilation_y")

    # The algorithm.
    p = hl.RDom([(0, gradient.dim(1).extent()), (0, gradient.dim(2).extent())], "p")
    total, out = hl.Func("total"), hl.Func("depthwise_weight")
    step_x, step_y = (i, j) if size else (i * dilation_x, j * dilation_y)
    total[c, i, j] = f32(0)
    total[c, i, j] += gradient[c, p.x, p.y] * image[c, p.x * stride_x + step_x, p.y * stride_y + step_y]
    out[c, i, j] = total[c, i, j]

    # The schedule.
    co, ci, jo, ji = hl.Var("co"), hl.Var("ci"), hl.Var("jo"), hl.Var("ji")
    room = isa.registers - 4
    vectors = 1 if size else 4
    rows = max([n for n in (7, 5, 3, 1) if size % n == 0 and n * size <= room], default=1) if size else 1

    def schedule(stage: hl.Func | hl.Stage, vectors: int) -> None:
        stage.split(c, co, ci, isa.lanes * vectors, hl.TailStrategy.ShiftInwards)
        stage.vectorize(ci, isa.lanes).unroll(ci).split(j, jo, ji, rows)
        if size:
            stage.reorder(ci, i, ji, jo, co).unroll(i).unroll(ji)
        else:
            stage.reorder(ci, i, ji, jo, co)

    if size:
        out.bound(i, 0, size).bound(j, 0, size)
        schedule(out, 1)
        total.compute_at(out, jo).vectorize(c, isa.lanes).unroll(i).unroll(j)
        total.update().reorder(c, i, j, p.x, p.y).vectorize(c, isa.lanes).unroll(i).unroll(j)
    else:
        schedule(out.specialize(image.dim(0).extent() >= isa.lanes * vectors), vectors)
        schedule(out, 1)
        total.compute_at(out, i).vectorize(c, isa.lanes).unroll(c)
        total.update().reorder(c, p.x, p.y).vectorize(c, isa.lanes).unroll(c)
    _from_zero(image, gradient, out.output_buffer())
    return out, [image, gradient, stride_x, stride_y, dilation_x, dilation_y]


def depthwise_input(isa: InstructionSet, size: int | None) -> tuple[hl.Func, list]:
    """The kernel of the input's gradient: size×size taps at stride 2 by parity, or any taps (None)."""
    return _by_parity(isa, size) if size else _anywhere(isa)


def _by_parity(isa: InstructionSet, size: int) -> tuple[hl.Func, list]:
    # gradient's first column and row are those of the reach: it lies (size - 1) // 2 before place 0. Where
    # the image begins at an odd column of out (padding on the left), `odd`, out is written from there.
    c, x, y, px, py = (hl.Var(name) for name in ("c", "x", "y", "px", "py"))
    gradient, weight = hl.ImageParam(hl.Float(32), 3, "gradient"), hl.ImageParam(hl.Float(32), 3, "weight")
    odd = hl.Param(hl.Bool(), "odd")
    reach = (size - 1) // 2

    # The algorithm, each parity's few taps written out.
    def parity(across: int, down: int, place: hl.Expr) -> hl.Expr:
        total = f32(0)
        for j in range(down, size, 2):
            for i in range(across, size, 2):
                total += weight[c, i, j] * gradient[c, place + reach - i // 2, y + reach - j // 2]
        return total

    def row(down: int) -> hl.Expr:
        even = hl.select(px == 0, parity(0, down, x), parity(1, down, x))
        return hl.select(odd, hl.select(px == 0, parity(1, down, x), parity(0, down, x + 1)), even)

    out = hl.Func("depthwise_input")
    out[c, px, x, py, y] = hl.select(py == 0, row(0), row(1))

    # The schedule.
    co, ci = hl.Var("co"), hl.Var("ci")
    out.bound(px, 0, 2).bound(py, 0, 2)
    out.split(c, co, ci, isa.lanes, hl.TailStrategy.ShiftInwards)
    out.reorder(ci, px, py, co, x, y).vectorize(ci).unroll(px).unroll(py).specialize(odd)
    _from_zero(gradient, weight, out.output_buffer())
    return out, [gradient, weight, odd]


def _anywhere(isa: InstructionSet) -> tuple[hl.Func, list]:
    # Here the gradient has no zeros around it: taps that find no place are left out of the sum.
    c, u, v = hl.Var("c"), hl.Var("u"), hl.Var("v")
    gradient, weight = hl.ImageParam(hl.Float(32), 3, "gradient"), hl.ImageParam(hl.Float(32), 3, "weight")
    stride_x, stride_y = hl.Param(hl.Int(32), "stride_x"), hl.Param(hl.Int(32), "stride_y")
    dilation_x, dilation_y = hl.Param(hl.Int(32), "dilation_x"), hl.Param(hl.Int(32), "dilation_y")

    # The algorithm.
    taps = hl.RDom([(0, weight.dim(1).extent()), (0, weight.dim(2).extent())], "taps")
    across, down = u - taps.x * dilation_x, v - taps.y * dilation_y
    taps.where((across >= 0) & (across % stride_x == 0) & (across / stride_x < gradient.dim(1).extent()))
    taps.where((down >= 0) & (down % stride_y == 0) & (down / stride_y < gradient.dim(2).extent()))
    total, out = hl.Func("total"), hl.Func("depthwise_input")
    total[c, u, v] = f32(0)
    x = hl.clamp(across / stride_x, 0, gradient.dim(1).extent() - 1)
    y = hl.clamp(down / stride_y, 0, gradient.dim(2).extent() - 1)
    total[c, u, v] += weight[c, taps.x, taps.y] * gradient[c, x, y]
    out[c, u, v] = total[c, u, v]

    # The schedule: as the forward kernel's, one pixel at a time.
    co, ci = hl.Var("co"), hl.Var("ci")

    def schedule(stage: hl.Func | hl.Stage, vectors: int) -> None:
        stage.split(c, co, ci, isa.lanes * vectors, hl.TailStrategy.ShiftInwards)
        stage.vectorize(ci, isa.lanes).unroll(ci)

    many = isa.depthwise_vectors
    schedule(out.specialize(gradient.dim(0).extent() >= isa.lanes * many), many)
    schedule(out, 1)
    total.compute_at(out, co).vectorize(c, isa.lanes).unroll(c)
    total.update().reorder(c, taps.x, taps.y, u, v).vectorize(c, isa.lanes).unroll(c)
    _from_zero(gradient, weight)
    out.output_buffer().dim(0).set_min(0)
    return out, [gradient, weight, stride_x, stride_y, dilation_x, dilation_y]


def pointwise_weight(isa: InstructionSet, width: int, rows: int) -> tuple[hl.Func, list]:
    """The micro-kernel of rows × width weights, over all of a matrix and the pixels of a band."""
    m, n = hl.Var("m"), hl.Var("n")
    image, gradient, init = (hl.ImageParam(hl.Float(32), 2, name) for name in ("image", "gradient", "init"))

    # The algorithm.
    p = hl.RDom([(0, image.dim(1).extent())], "p")
    total, out = hl.Func("total"), hl.Func("pointwise_weight")
    total[m, n] = f32(0)
    total[m, n] += image[m, p.x] * gradient[n, p.x]
    out[m, n] = init[m, n] + total[m, n]

    # The schedule: a strip of the image stays in the first cache while all of the gradient passes.
    mo, mi, no, ni = hl.Var("mo"), hl.Var("mi"), hl.Var("no"), hl.Var("ni")
    lanes, exact = min(isa.lanes, width), hl.TailStrategy.RoundUp
    out.split(m, mo, mi, width, exact).split(n, no, ni, rows, exact)
    out.reorder(mi, ni, no, mo).vectorize(mi, lanes).unroll(mi).unroll(ni)
    total.compute_at(out, no).vectorize(m, lanes).unroll(m).unroll(n)
    total.update().reorder(m, n, p.x).vectorize(m, lanes).unroll(m).unroll(n)
    _from_zero(image, gradient, init, out.output_buffer())
    for k, multiple in ((0, width), (1, rows)):
        extent = out.output_buffer().dim(k).extent()
        out.output_buffer().dim(k).set_extent((extent // multiple) * multiple)
    return out, [image, gradient, init]


def _from_zero(*buffers: hl.ImageParam | hl.OutputImageParam) -> None:
    for buffer in buffers:
        for k in range(buffer.dimensions()):
            buffer.dim(k).set_min(0)
