"""A convolution that PyTorch computes inside a chain, between images made whole by the kernels of `home`."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from ninefold.ops import fallback, gradients
from ninefold.ops.operands import Gradient, Gradients, Operand, dense

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]


def forward(
    home: ModuleType,
    x: Operand,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    groups: int,
    moments: Tensor | None,
) -> Tensor:
    """Convolve an operand; the first two rows of `moments` take the output's mean and biased variance."""
    z = dense(fallback.convolve(made(home, x), weight, bias, stride, padding, dilation, groups))
    if moments is not None:
        home.moments(z, moments)
    return z


def backward(
    home: ModuleType,
    dz: Gradient,
    x: Operand,
    weight: Tensor,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    groups: int,
    needed: tuple[bool, bool],
) -> Gradients:
    """Gradients of the weight and of the operand, those of the two that are needed."""
    arrived = dz.arrived if dz.turn is None else home.turn(dz)
    needs_weight, needs_input = needed
    along, weights, _ = gradients.convolution(
        arrived,
        made(home, x) if needs_weight else x.z,
        weight,
        None,
        *(stride, padding, dilation, groups),
        (needs_input, needs_weight, False),
    )
    sums = None
    if along is not None:
        along = dense(along)
        if x.numbers is not None:
            along, sums = home.reduce(x, along)
    return Gradients(weights, along, sums)


def made(home: ModuleType, x: Operand) -> Tensor:
    """The operand's values."""
    whole: Tensor = x.z if x.numbers is None else home.apply(x)
    return whole
