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
    return x / (f32(1) + _decay(x))


def hardsigmoid(x: hl.Expr) -> hl.Expr:
    """clip(x + 3, 0, 6) / 6."""
    return clip(x + f32(3), f32(0), f32(6)) / f32(6)


def hardswish(x: hl.Expr) -> hl.Expr:
    """x · clip(x + 3, 0, 6) / 6."""
    return x * clip(x + f32(3), f32(0), f32(6)) / f32(6)


# (Φ(x) - 1/2) / x for |x| ≤ NORMAL, lowest power of 2·(x/NORMAL)² - 1 first: a weighted minimax fit. In
# powers of x² its terms would be large and cancel; these are at most 0.14.
_NORMAL = 5.2
_DISTRIBUTION = (0.135949999, -0.0677436665, 0.0500244573, -0.0399297103, 0.0319909267, -0.0247249305)
_DISTRIBUTION += (0.0179495905, -0.0124988481, 0.00857236329, -0.00480312807, 0.00178665505, -0.00120675249)
_DISTRIBUTION += (0.00127394835, -0.00048708223)


def gelu(x: hl.Expr) -> hl.Expr:
    """x · Φ(x), with Φ the normal distribution: within 7e-7 of itself, or of 1 where it is smaller.

    It costs 0.34 ns a number on AVX-512. Φ as a sigmoid of the polynomial log2(Φ(x)/Φ(-x)) cost 0.43, with
    nothing that cancels for negative x, as it does here and in PyTorch's 1 + erf; erfc (a polynomial, a
    division and an exponential) 0.96. Below -5.2, where x · Φ(x) is -5e-7, it is 0.
    """
    return hl.strict_float(hl.select(x < f32(-_NORMAL), x * f32(0), x)) * _normal(x)


def _normal(x: hl.Expr) -> hl.Expr:
    """Φ(x), within 2e-7: 1/2 and an odd polynomial."""
    inside = clip(x, f32(-_NORMAL), f32(_NORMAL))
    place = inside * inside * f32(2 / _NORMAL**2) - f32(1)
    return inside * _polynomial(_DISTRIBUTION, place) + f32(0.5)


def gelu_tanh(x: hl.Expr) -> hl.Expr:
    """x/2 · (1 + tanh(√(2/π)·(x + 0.044715 x³))), with (1 + tanh(u))/2 = sigmoid(2u)."""
    scale = 2 * math.sqrt(2 / math.pi) * math.log2(math.e)
    return x / (f32(1) + _bounded_power(-x * (f32(scale) + f32(scale * 0.044715) * x * x)))


def _decay(x: hl.Expr) -> hl.Expr:
    """e^-x, no less than 2^-126."""
    return _bounded_power(x * f32(-math.log2(math.e)))


def _bounded_power(y: hl.Expr) -> hl.Expr:
    """2^y, no less than 2^-126, and ∞ from y = 128: x / (1 + ∞) is 0, and for -∞ NaN as in PyTorch."""
    return power_of_two(clip(y, f32(-126), f32(128)))


# (2^r - 1) / r for |r| ≤ 1/2, lowest power first: a minimax fit; 2^r is within 9.2e-8 of itself, and 1 for 0.
_POWER = (0.693147004, 0.240222424, 0.0555073359, 0.00967151299, 0.00132647273)


def power_of_two(y: hl.Expr) -> hl.Expr:
    """2^y for -126 ≤ y ≤ 128, within 1.7e-7 for what y was rounded to; 2^128 is ∞, NaN stays.

    y = n + r with |r| ≤ 1/2; 2^n goes straight into the exponent of 2^r. n is had by adding 1.5·2^23, which
    leaves it in the low bits too: no conversion. With this, silu takes 0.18 ns a number on AVX-512; with
    bounds for x instead of y, and -∞ looked for, 0.19; with e^x, its ln 2 in two parts and a polynomial of
    degree 6, 0.27. A reciprocal by Newton's method instead of the division was slower (0.21 and 0.27).
    AVX-512's own x · 2^n, which Halide does not know, would come to 0.17.
    """
    magic = f32(1.5 * 2**23)
    shifted = hl.strict_float(y + magic)
    r = y - hl.strict_float(shifted - magic)
    bits = hl.reinterpret(hl.Int(32), _polynomial((1.0, *_POWER), r))
    return hl.reinterpret(hl.Float(32), bits + (hl.reinterpret(hl.Int(32), shifted) << 23))


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
    bounded = clip(x, f32(-10), f32(10))
    density = power_of_two(bounded * bounded * f32(-math.log2(math.e) / 2)) * f32(1 / math.sqrt(2 * math.pi))
    return _normal(x) + bounded * density


def gelu_tanh_slope(x: hl.Expr) -> hl.Expr:
    """The derivative of gelu_tanh: s + x·s·(1 - s)·2u'(x), with s = sigmoid(2u)."""
    inside = clip(x, f32(-10), f32(10))
    scale, square = 2 * math.sqrt(2 / math.pi), inside * inside
    s = sigmoid(inside * (f32(scale) + f32(scale * 0.044715) * square))
    return s + inside * s * (f32(1) - s) * (f32(scale) + f32(3 * scale * 0.044715) * square)


# All in one kernel: what it does depends on the place in this list. None, relu and relu6 need none: they are
# `clip` inside every kernel.
EPILOGUES: dict[str, Callable[[hl.Expr], hl.Expr]] = {
    "silu": silu,
    "hardswish": hardswish,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "hardsigmoid": hardsigmoid,
    "sigmoid": sigmoid,
}

# Their derivatives, in one kernel too.
SLOPES: dict[str, Callable[[hl.Expr], hl.Expr]] = {
    "silu": silu_slope,
    "hardswish": hardswish_slope,
    "gelu": gelu_slope,
    "gelu_tanh": gelu_tanh_slope,
    "hardsigmoid": hardsigmoid_slope,
    "sigmoid": sigmoid_slope,
}
