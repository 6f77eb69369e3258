"""What is done to a tile while it is in the cache: an activation with an exponential in it, or the residual.

    out[c, p] = activation(input[c, p])          out[c, p] = input[c, p] + residual[c, p]

Shapes: all (C, P); out may be input itself.
"""

from __future__ import annotations

import halide as hl

from activations import EPILOGUES, clip, f32
from targets import InstructionSet


def activation(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel of every activation that is no clip, by place in `activations.EPILOGUES`."""
    c, p = hl.Var("c"), hl.Var("p")
    image, which = _tile("image"), hl.Param(hl.Int(32), "which")
    out = hl.Func("epilogue")
    chosen = f32(0)
    for place, function in enumerate(EPILOGUES.values()):
        chosen = hl.select(which == place, function(image[c, p]), chosen)
    out[c, p] = chosen
    for place in range(len(EPILOGUES)):
        _by_vectors(isa, out.specialize(which == place), c)
    out.specialize_fail("no such activation")
    return _from_zero(out), [image, which]


def clipped(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel of ReLU and ReLU6 where no convolution stands before them."""
    c, p = hl.Var("c"), hl.Var("p")
    image = _tile("image")
    low, high = hl.Param(hl.Float(32), "low"), hl.Param(hl.Float(32), "high")
    out = hl.Func("epilogue")
    out[c, p] = clip(image[c, p], low, high)
    _by_vectors(isa, out, c)
    return _from_zero(out), [image, low, high]


def add(isa: InstructionSet) -> tuple[hl.Func, list]:
    """The kernel that adds the residual."""
    c, p = hl.Var("c"), hl.Var("p")
    image, residual = _tile("image"), _tile("residual")
    out = hl.Func("epilogue")
    out[c, p] = image[c, p] + residual[c, p]
    _by_vectors(isa, out, c)
    return _from_zero(out), [image, residual]


def _tile(name: str) -> hl.ImageParam:
    tile = hl.ImageParam(hl.Float(32), 2, name)
    tile.dim(0).set_min(0)
    tile.dim(1).set_min(0)
    return tile


def _by_vectors(isa: InstructionSet, stage: hl.Func | hl.Stage, c: hl.Var) -> None:
    # In place, so the last vector must not be moved inwards: it would be activated twice.
    stage.vectorize(c, isa.lanes, hl.TailStrategy.GuardWithIf)


def _from_zero(out: hl.Func) -> hl.Func:
    out.output_buffer().dim(0).set_min(0)
    out.output_buffer().dim(1).set_min(0)
    return out
