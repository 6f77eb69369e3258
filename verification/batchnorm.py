"""Batch-norm and its gradient in float64, and how far off float32 may be.

First order in the errors that arrive, as Higham does it (*Accuracy and Stability of Numerical Algorithms*,
chapter 3); a magnitude stands wherever a sign could make an error smaller. No bound is zero: a square root
is in everything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EPS = 1e-5

Array = NDArray[np.float64]

_ROUNDING = 2.0**-24
_TILE = 512  # numbers that are added in float32 before the parts are merged in float64
_AXES = (0, 2, 3)


@dataclass
class Near:
    """Values, and how far float32 may be from each."""

    value: Array
    error: Array

    @property
    def size(self) -> Array:
        """The largest magnitude that float32 may have."""
        return np.abs(self.value) + self.error


@dataclass
class Normalised:
    """What a batch-norm did: its output, the statistics, and what the way back needs of them."""

    out: Near
    mean: Near
    variance: Near
    around: Near  # z - mean
    over: Near  # 1 / √(variance + ε)
    gamma: Array
    batch: bool


def forward(
    z: Near, gamma: Array | None, beta: Array | None, running: tuple[Array, Array] | None
) -> Normalised:
    """Normalise z (batch, C, H, W) by its own statistics, or by running mean and variance."""
    gamma = np.ones(z.value.shape[1]) if gamma is None else gamma
    beta = np.zeros_like(gamma) if beta is None else beta
    if running is None:
        mean = _average(z.value, z.error, z.size)
        around = _minus(z, mean)
        square = around.value**2
        spread = 2 * np.abs(around.value) * around.error + around.error**2
        # A tile is summed around one of its own pixels, so that the largest distance counts twice.
        variance = _average(square, spread, 2 * (square + square.max(_AXES, keepdims=True)))
    else:
        mean, variance = (Near(each, np.zeros_like(each)) for each in running)
        around = _minus(z, mean)
    least = np.maximum(variance.value - variance.error, 0) + EPS
    over = 1 / np.sqrt(variance.value + EPS)
    inverse = Near(over, 1 / np.sqrt(least) - over + 4 * _ROUNDING * over)
    scale = np.abs(gamma) * over
    off = _per_channel(np.abs(gamma)) * (
        _per_channel(inverse.value + inverse.error) * around.error
        + np.abs(around.value) * _per_channel(inverse.error)
    )
    size = _per_channel(scale) * (z.size + _per_channel(mean.size)) + _per_channel(np.abs(beta))
    out = around.value * _per_channel(gamma * over) + _per_channel(beta)
    return Normalised(
        Near(out, off + 6 * _ROUNDING * size), mean, variance, around, inverse, gamma, running is None
    )


def backward(grad: Near, norm: Normalised) -> tuple[Near, Near, Near]:
    """The gradients of z, gamma and beta."""
    count = grad.value.size // grad.value.shape[1]
    around, over, gamma = norm.around, norm.over, np.abs(norm.gamma)
    products = _average(
        grad.value * around.value,
        grad.error * around.size + grad.size * around.error,
        grad.size * around.size,
    )
    centre = _average(grad.value, grad.error, grad.size)
    along_beta = Near(count * centre.value, count * centre.error)
    along_gamma = Near(
        count * products.value * over.value,
        count * (products.error * (over.value + over.error) + np.abs(products.value) * over.error),
    )
    if not norm.batch:
        scale, off = _per_channel(gamma * over.value), _per_channel(gamma * over.error)
        value = grad.value * _per_channel(norm.gamma * over.value)
        error = scale * grad.error + off * grad.size + 4 * _ROUNDING * scale * grad.size
        return Near(value, error), along_gamma, along_beta
    square = over.value**2
    square_off = 2 * over.value * over.error + over.error**2
    slope = Near(
        square * products.value,
        square_off * products.size + (square + square_off) * products.error,
    )
    inside = grad.value - _per_channel(centre.value) - around.value * _per_channel(slope.value)
    size = grad.size + _per_channel(centre.size) + around.size * _per_channel(slope.size)
    off = (
        grad.error
        + _per_channel(centre.error)
        + around.error * _per_channel(slope.size)
        + around.size * _per_channel(slope.error)
        + 8 * _ROUNDING * size
    )
    scale = _per_channel(gamma * (over.value + over.error))
    error = scale * off + _per_channel(gamma * over.error) * np.abs(inside)
    return Near(inside * _per_channel(norm.gamma * over.value), error), along_gamma, along_beta


def _average(value: Array, error: Array, size: Array) -> Near:
    count = value.size // value.shape[1]
    terms = min(count, _TILE) + 16
    return Near(value.mean(_AXES), error.mean(_AXES) + terms * _ROUNDING * size.mean(_AXES))


def _minus(z: Near, mean: Near) -> Near:
    value = z.value - _per_channel(mean.value)
    return Near(value, z.error + _per_channel(mean.error) + _ROUNDING * np.abs(value))


def _per_channel(numbers: Array) -> Array:
    return numbers[:, None, None]
