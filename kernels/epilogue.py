"""What is done to a tile while it is in the cache: an activation with an exponential in it, or the residual.

    out[c, p] = activation(input[c, p])          out[c, p] = input[c, p] + residual[c, p]

Shapes: all (C, P); out may be input itself.
"""

from __future__ import annotations

import halide as hl

from activations import EPILOGUES, clip
from targets import InstructionSet


def activation(isa: InstructionSet, name: str) -> tuple[hl.Func, list]:
    """The kernel of one activation of `activations.EPILOGUES`."""
    c, p = hl.Var("c"), hl.Var("p")
    image = _tile("image")
    out = hl.Func("epilogue")
    out[c, p] = EPILOGUES[name](image[c, p])
    return _by_vectors(isa, out, c), [image]


def clipped(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel of ReLU and ReLU6 where no convolution stands before them."""
    c, p = hl.Var("c"), hl.Var("p")
    image = _tile("image")
    low, high = hl.Param(hl.Float(32), "low"), hl.Param(hl.Float(32), "high")
    out = hl.Func("epilogue")
    out[c, p] = clip(image[c, p], low, high)
    return _by_vectors(isa, out, c), [image, low, high]


def add(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel that adds the residual."""
    c, p = hl.Var("c"), hl.Var("p")
    image, residual = _tile("image"), _tile("residual")
    out = hl.Func("epilogue")
    out[c, p] = image[c, p] + residual[c, p]
    return _by_vectors(isa, out, c), [image, residual]


def _tile(name: str) -> hl.ImageParam:
    tile = hl.ImageParam(hl.Float(32), 2, name)
    tile.dim(0).set_min(0)
    tile.dim(1).set_min(0)
    return tile


def _by_vectors(isa: InstructionSet, out: hl.Func, c: hl.Var) -> hl.Func:
    # In place, so the last vector must not be moved inwards: it would be activated twice.
    out.vectorize(c, isa.lanes, hl.TailStrategy.GuardWithIf)
    out.output_buffer().dim(0).set_min(0)
    out.output_buffer().dim(1).set_min(0)
    return out
