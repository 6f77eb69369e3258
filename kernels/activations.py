"""The activations, each written once, as Halide expressions.

NaN goes through every one of them, as in PyTorch. Halide's own `clamp` and `max` turn NaN into a number, so
none is used here: `clip` is two ordered comparisons that leave a NaN alone, and `strict_float` keeps the
compiler from turning them back. On x86 each becomes one MAXPS or MINPS whose second operand is the value.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import halide as hl


def f32(value: float) -> hl.Expr:
    """A constant, rounded to float32 on purpose (Halide warns of each)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return hl.f32(value)


def clip(value: hl.Expr, low: hl.Expr, high: hl.Expr) -> hl.Expr:
    """min(max(value, low), high), but NaN stays: none, relu and relu6, by bounds given at run time."""
    raised = hl.strict_float(hl.select(low > value, low, value))
    return hl.strict_float(hl.select(high < raised, high, raised))


def sigmoid(x: hl.Expr) -> hl.Expr:
    """1 / (1 + exp(-x))."""
    return f32(1) / (f32(1) + _decay(x))


def silu(x: hl.Expr) -> hl.Expr:
    """x · sigmoid(x)."""
    return _not_below_all(x) / (f32(1) + _decay(x))


def hardsigmoid(x: hl.Expr) -> hl.Expr:
    """clip(x + 3, 0, 6) / 6."""
    return clip(x + f32(3), f32(0), f32(6)) / f32(6)


def hardswish(x: hl.Expr) -> hl.Expr:
    """x · clip(x + 3, 0, 6) / 6."""
    return x * clip(x + f32(3), f32(0), f32(6)) / f32(6)


# log2(Φ(x) / Φ(-x)) / x for |x| ≤ 5.5, in powers of x²: a weighted minimax fit. Φ is then within 2e-7, and
# within 2e-5 of itself where it is as small as Φ(-5).
_LOGIT = (2.30221534, 0.104809903, -6.7363726e-05, -0.000170800384, 1.36586496e-05)
_LOGIT += (-6.02218563e-07, 1.59542317e-08, -2.36738185e-10, 1.5120741e-12)


def gelu(x: hl.Expr) -> hl.Expr:
    """x · Φ(x), with Φ the normal distribution, as a sigmoid: Φ(x) = 1 / (1 + Φ(-x)/Φ(x)).

    The logarithm of that ratio is odd and smooth, x times a polynomial in x². So nothing cancels for negative
    x, as it does in 1 + erf, and it costs 0.42 ns a number on AVX-512, where erfc (a polynomial, a division
    and an exponential) took 0.96. Below -5.5, where x · Φ(x) is -1e-7, it is 0.
    """
    inside = clip(x, f32(-5.5), f32(5.5))
    ratio = power_of_two(-inside * _polynomial(_LOGIT, inside * inside), round_by=_converted)
    return hl.strict_float(hl.select(x < f32(-5.5), x * f32(0), x)) / (f32(1) + ratio)


def gelu_tanh(x: hl.Expr) -> hl.Expr:
    """x/2 · (1 + tanh(√(2/π)·(x + 0.044715 x³))), with (1 + tanh(u))/2 = sigmoid(2u)."""
    inside = clip(x, f32(-10), f32(10))
    scale = 2 * math.sqrt(2 / math.pi) * math.log2(math.e)
    ratio = power_of_two(-inside * (f32(scale) + f32(scale * 0.044715) * inside * inside))
    return _not_below_all(x) / (f32(1) + ratio)


def _not_below_all(x: hl.Expr) -> hl.Expr:
    """x, but -∞ becomes NaN: -∞ · 0 is what silu and gelu come to there, in PyTorch too."""
    return hl.strict_float(hl.select(x > f32(-math.inf), x, f32(math.nan)))


def _decay(x: hl.Expr) -> hl.Expr:
    """e^-x for |x| ≤ 87, beyond that as at 87: a sigmoid is 0 or 1 there."""
    return power_of_two(clip(x, f32(-87), f32(87)) * f32(-math.log2(math.e)))


# 2^r for |r| ≤ 1/2, lowest power first: a Chebyshev fit of degree 5, relative error 1.0e-7.
_POWER = (1.00000012, 0.693147182, 0.240221068, 0.0555032715, 0.00967603736, 0.00134004327)

Rounded = tuple[hl.Expr, hl.Expr]


def _shifted(y: hl.Expr) -> Rounded:
    """y rounded, as a float and as an integer in the high bits, by adding 1.5·2^23: no conversion.

    `strict_float` keeps the sum, and with it every multiply-add that y is made of, from being rewritten:
    those are then two operations each.
    """
    magic = f32(1.5 * 2**23)
    shifted = hl.strict_float(y + magic)
    return hl.strict_float(shifted - magic), hl.reinterpret(hl.Int(32), shifted) << 23


def _converted(y: hl.Expr) -> Rounded:
    """The same by rounding and converting: dearer, but y keeps its multiply-adds."""
    n = hl.round(y)
    return n, hl.i32(n) << 23


def power_of_two(y: hl.Expr, *, round_by: Callable[[hl.Expr], Rounded] = _shifted) -> hl.Expr:
    """2^y for |y| ≤ 126, within 1.2e-7 for what y was rounded to; NaN stays.

    y = n + r with |r| ≤ 1/2; 2^n goes straight into the exponent of 2^r. With this, silu takes 0.20 ns a
    number on AVX-512 and 0.28 on AVX2; with e^x, its ln 2 in two parts and a polynomial of degree 6, 0.27 and
    0.42. A reciprocal by Newton's method instead of the division was slower (0.27).
    """
    n, exponent = round_by(y)
    return hl.reinterpret(hl.Float(32), hl.reinterpret(hl.Int(32), _polynomial(_POWER, y - n)) + exponent)


def _polynomial(coefficients: tuple[float, ...], x: hl.Expr) -> hl.Expr:
    total = f32(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * x + f32(coefficient)
    return total


def silu_slope(x: hl.Expr) -> hl.Expr:
    """The derivative of silu: σ(x)·(1 + x·(1 - σ(x)))."""
    s = sigmoid(x)
    return s * (f32(1) + x * (f32(1) - s))


def sigmoid_slope(x: hl.Expr) -> hl.Expr:
    """The derivative of the sigmoid: σ(x)·(1 - σ(x))."""
    s = sigmoid(x)
    return s * (f32(1) - s)


def hardsigmoid_slope(x: hl.Expr) -> hl.Expr:
    """The derivative of hardsigmoid: 1/6 between -3 and 3; 0 there, beyond, and for NaN, as in PyTorch."""
    below = hl.strict_float(hl.select(x < f32(3), f32(1 / 6), f32(0)))
    return hl.strict_float(hl.select(f32(-3) < x, below, f32(0)))


def hardswish_slope(x: hl.Expr) -> hl.Expr:
    """The derivative of hardswish: 0 to -3, x/3 + 1/2, 1 from 3."""
    # Halide turns a <= b into !(b < a), which is true for NaN, so the bounds come one step inside.
    bound = 3 - 2.0**-22
    above = hl.strict_float(hl.select(x < f32(-bound), f32(0), x / f32(3) + f32(0.5)))
    return hl.strict_float(hl.select(f32(bound) < x, f32(1), above))


def gelu_slope(x: hl.Expr) -> hl.Expr:
    """The derivative of gelu: Φ(x) + x·φ(x), φ the normal density."""
    inside = clip(x, f32(-5.5), f32(5.5))
    ratio = power_of_two(-inside * _polynomial(_LOGIT, inside * inside))
    density = power_of_two(inside * inside * f32(-math.log2(math.e) / 2)) * f32(1 / math.sqrt(2 * math.pi))
    return f32(1) / (f32(1) + ratio) + inside * density


def gelu_tanh_slope(x: hl.Expr) -> hl.Expr:
    """The derivative of gelu_tanh: s + x·s·(1 - s)·2u'(x), with s = sigmoid(2u)."""
    inside = clip(x, f32(-10), f32(10))
    scale, square = 2 * math.sqrt(2 / math.pi), inside * inside
    s = sigmoid(inside * (f32(scale) + f32(scale * 0.044715) * square))
    return s + inside * s * (f32(1) - s) * (f32(scale) + f32(3 * scale * 0.044715) * square)


# What an epilogue kernel is compiled for. None, relu and relu6 need none: they are `clip` inside every
# kernel.
EPILOGUES: dict[str, Callable[[hl.Expr], hl.Expr]] = {
    "silu": silu,
    "hardswish": hardswish,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "hardsigmoid": hardsigmoid,
    "sigmoid": sigmoid,
}

# Their derivatives, all in one kernel: what it does depends on the place in this list.
SLOPES: dict[str, Callable[[hl.Expr], hl.Expr]] = {
    "silu": silu_slope,
    "hardswish": hardswish_slope,
    "gelu": gelu_slope,
    "gelu_tanh": gelu_tanh_slope,
    "hardsigmoid": hardsigmoid_slope,
    "sigmoid": sigmoid_slope,
}
