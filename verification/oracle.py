"""What a chain of convolutions and its gradients are in float64, and how far off float32 may be.

Each value travels with a bound on its error (Higham, *Accuracy and Stability of Numerical Algorithms*,
chapter 3): a sum of n products in float32, in any order, with or without fused multiply-adds, is off by at
most γ(n) times the sum of their magnitudes, where γ(n) = n·u / (1 - n·u) and u = 2⁻²⁴. Integers whose sums
stay below 2²⁴ have no error at all, and their bound is zero: results must be equal, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import batchnorm
from batchnorm import EPS, Array, Near
from drawn import EXACT, Case, Stage
from ninefold import reference

__all__ = ["EPS", "Near", "Truth", "exactly", "truth", "wanted"]


_ROUNDING = 2.0**-24
_ACTIVATION = 2e-6  # relative, of an activation with an exponential
_TAIL = {"gelu": 8e-7}  # absolute: the kernels' Φ is within 2e-7, and its factor at most 5.2
_LEAST = 1e-8  # the others'
_PYTORCH = 1e-6  # PyTorch's own activations, which gradients are made of: absolute, where 1 + erf cancels
_SLOPE, _BEND = 1.5, 1.0  # no activation is steeper, none bends more between its kinks

_KINKS = {"relu": (0.0,), "relu6": (0.0, 6.0), "hardswish": (-3.0, 3.0), "hardsigmoid": (-3.0, 3.0)}


@dataclass
class Truth:
    """The results of one case, in the order in which `operators.results` gives them."""

    results: list[Near]
    largest: float  # of the sums of magnitudes: exactness ends at 2²⁴


def truth(case: Case, operands: dict[str, Any], upstream: Any) -> Truth:
    """Compute `case` in float64; `upstream` is the gradient that comes from above, where one is needed.

    Behind an output come the batch statistics of each stage that has them. Gradients come in the order x,
    residual, or weights, biases, gammas and betas stage by stage.
    """
    arrays = {name: np.asarray(tensor.detach(), np.float64) for name, tensor in operands.items()}
    work = _Work(exact=case.integers, kernels=case.direction == "forward")
    x, before = exactly(arrays["x"]), []
    inputs = []
    norms: list[batchnorm.Normalised | None] = []
    for k, stage in enumerate(case.stages):
        inputs.append(x)
        x = work.convolve(x, stage, arrays[f"weight{k}"], arrays.get(f"bias{k}"))
        norms.append(work.normalise(x, stage, k, arrays))
        before.append(norms[-1].out if norms[-1] else x)
        x = work.activate(before[-1], stage.activation)
    if case.direction == "forward":
        if case.residual:
            x = work.sum(x, exactly(arrays["residual"]))
        statistics = [each for norm in norms if norm and norm.batch for each in (norm.mean, norm.variance)]
        return Truth([x, *statistics], work.largest)

    grad = exactly(np.asarray(upstream, np.float64))
    found: dict[str, Near] = {"residual": grad}
    for k in reversed(range(len(case.stages))):
        stage = case.stages[k]
        grad = work.through_activation(grad, before[k], stage.activation)
        norm = norms[k]
        if norm is not None:
            grad, found[f"gamma{k}"], found[f"beta{k}"] = batchnorm.backward(grad, norm)
        found[f"weight{k}"] = work.weight_gradient(grad, inputs[k], stage)
        found[f"bias{k}"] = work.total(grad)
        if k or case.direction == "input-gradient":
            grad = work.input_gradient(grad, inputs[k], stage, arrays[f"weight{k}"])
    found["x"] = grad
    return Truth([found[name] for name in wanted(case)], work.largest)


def wanted(case: Case) -> list[str]:
    """What the case's results are called: those of a gradient by the operand that it belongs to."""
    if case.direction == "forward":
        batch = [k for k, stage in enumerate(case.stages) if stage.normalisation == "batch"]
        return ["output", *(f"{name}{k}" for k in batch for name in ("mean", "variance"))]
    if case.direction == "input-gradient":
        return ["x", "residual"] if case.residual else ["x"]
    return [
        f"{name}{k}"
        for k, stage in enumerate(case.stages)
        for name, there in (
            ("weight", True),
            ("bias", stage.bias),
            ("gamma", stage.normalisation and stage.affine),
            ("beta", stage.normalisation and stage.affine),
        )
        if there
    ]


def exactly(value: Array) -> Near:
    """A value that float32 has as it is."""
    return Near(value, np.zeros_like(value))


class _Work:
    def __init__(self, *, exact: bool, kernels: bool) -> None:
        self.exact, self.kernels, self.largest = exact, kernels, 0.0

    def _near(self, value: Array, size: Array, carried: Array | float, terms: int) -> Near:
        self.largest = max(self.largest, float(size.max(initial=0.0)))
        if self.exact and self.largest < 2**24:
            return exactly(value)
        self.exact = False
        gamma = terms * _ROUNDING / (1 - terms * _ROUNDING)
        return Near(value, carried + gamma * size + terms * 2.0**-126)

    def convolve(self, x: Near, stage: Stage, weight: Array, bias: Array | None) -> Near:
        offset = 0.0 if bias is None else bias[:, None, None]
        value = _convolve(x.value, weight, stage) + offset
        size = _convolve(x.size, np.abs(weight), stage) + np.abs(offset)
        carried = _convolve(x.error, np.abs(weight), stage) if x.error.any() else 0.0
        return self._near(value, size, carried, math.prod(weight.shape[1:]) + 2)

    def activate(self, x: Near, activation: str | None) -> Near:
        value = reference.activate(x.value, activation)
        if activation in EXACT:
            return Near(value, x.error)
        self.exact = False
        tail = _TAIL.get(str(activation), _LEAST) if self.kernels else _PYTORCH
        return Near(value, _SLOPE * x.error + _ACTIVATION * np.abs(value) + tail)

    def normalise(self, x: Near, stage: Stage, k: int, arrays: dict[str, Any]) -> batchnorm.Normalised | None:
        if stage.normalisation is None:
            return None
        self.exact = False
        running = (arrays[f"mean{k}"], arrays[f"variance{k}"]) if stage.normalisation == "running" else None
        return batchnorm.forward(x, arrays.get(f"gamma{k}"), arrays.get(f"beta{k}"), running)

    def sum(self, a: Near, b: Near) -> Near:
        return self._near(a.value + b.value, a.size + b.size, a.error + b.error, 1)

    def through_activation(self, grad: Near, x: Near, activation: str | None) -> Near:
        if activation is None:
            return grad
        slope = _DERIVATIVES[activation](x.value)
        off = np.minimum(_BEND * x.error, _SLOPE)
        for kink in _KINKS.get(activation, ()):
            # On which side of a kink float32 lies is open where its error reaches across.
            off = np.where(np.abs(x.value - kink) < x.error, 1.0, off)
        if activation not in EXACT:
            self.exact = False
            off += _PYTORCH * (1 + np.abs(x.value))
        if self.exact:
            return exactly(grad.value * slope)
        error = grad.error * np.abs(slope) + grad.size * off + 2 * _ROUNDING * np.abs(grad.value * slope)
        return Near(grad.value * slope, error)

    def weight_gradient(self, grad: Near, x: Near, stage: Stage) -> Near:
        value = _correlate(grad.value, x.value, stage)
        size = _correlate(grad.size, x.size, stage)
        carried: Array | float = 0.0
        if grad.error.any() or x.error.any():
            carried = _correlate(grad.error, np.abs(x.value), stage) + _correlate(grad.size, x.error, stage)
        return self._near(value, size, carried, grad.value.size // grad.value.shape[1] + 1)

    def total(self, grad: Near) -> Near:
        def over(v: Array) -> Array:
            return v.sum((0, 2, 3))

        count = grad.value.size // grad.value.shape[1] + 1
        return self._near(over(grad.value), over(grad.size), over(grad.error), count)

    def input_gradient(self, grad: Near, x: Near, stage: Stage, weight: Array) -> Near:
        value = _spread(grad.value, weight, stage, x.value.shape)
        size = _spread(grad.size, np.abs(weight), stage, x.value.shape)
        carried = _spread(grad.error, np.abs(weight), stage, x.value.shape) if grad.error.any() else 0.0
        terms = weight.shape[0] // stage.groups * math.prod(stage.kernel_size) + 1
        return self._near(value, size, carried, terms)


def _convolve(x: Array, weight: Array, stage: Stage) -> Array:
    return reference.conv2d(
        x, weight, stride=stage.stride, padding=stage.padding, dilation=stage.dilation, groups=stage.groups
    )


def _correlate(grad: Array, x: Array, stage: Stage) -> Array:
    """∂/∂weight[o, c, i, j] = Σ[n, y, x] grad[n, o, y, x] · in[n, c, y·s + i·d, x·s + j·d]."""
    left, right, top, bottom = stage.padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    above = _grouped(grad, stage.groups)
    inputs = x.shape[1] // stage.groups
    weight = np.empty((stage.groups, above.shape[2], inputs, *stage.kernel_size))
    for i, j, seen in _taps(padded, stage, grad.shape[2:]):
        weight[..., i, j] = (above @ _grouped(seen, stage.groups).swapaxes(2, 3)).sum(0)
    return weight.reshape(stage.out_channels, inputs, *stage.kernel_size)


def _spread(grad: Array, weight: Array, stage: Stage, x_shape: tuple[int, ...]) -> Array:
    """∂/∂in: every product of the convolution, sent back to the pixel that it came from."""
    left, right, top, bottom = stage.padding
    batch, channels, tall, wide = x_shape
    above = _grouped(grad, stage.groups)
    kernels = weight.reshape(stage.groups, above.shape[2], channels // stage.groups, *stage.kernel_size)
    padded = np.zeros((batch, channels, tall + top + bottom, wide + left + right))
    for i, j, seen in _taps(padded, stage, grad.shape[2:]):  # views of `padded`
        seen += (kernels[..., i, j].swapaxes(1, 2) @ above).reshape(seen.shape)
    return padded[:, :, top : top + tall, left : left + wide]


def _taps(padded: Array, stage: Stage, size: tuple[int, ...]) -> Iterator[tuple[int, int, Array]]:
    for i in range(stage.kernel_size[0]):
        for j in range(stage.kernel_size[1]):
            y, x = i * stage.dilation[0], j * stage.dilation[1]
            rows = slice(y, y + (size[0] - 1) * stage.stride[0] + 1, stage.stride[0])
            columns = slice(x, x + (size[1] - 1) * stage.stride[1] + 1, stage.stride[1])
            yield i, j, padded[:, :, rows, columns]


def _grouped(x: Array, groups: int) -> Array:
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)


def _sigmoid(x: Array) -> Array:
    return reference.activate(x, "sigmoid")


def _gelu(x: Array) -> Array:
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return np.divide(reference.activate(x, "gelu"), x, out=np.full_like(x, 0.5), where=x != 0) + x * density


def _gelu_tanh(x: Array) -> Array:
    scale = math.sqrt(2 / math.pi)
    tanh = np.tanh(scale * (x + 0.044715 * x**3))
    return 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh**2) * scale * (1 + 3 * 0.044715 * x * x)


# PyTorch's: at a kink of relu and relu6 the slope is 0.
_DERIVATIVES: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: (x > 0) * 1.0,
    "relu6": lambda x: ((x > 0) & (x < 6)) * 1.0,
    "silu": lambda x: _sigmoid(x) * (1 + x * (1 - _sigmoid(x))),
    "hardswish": lambda x: np.where(x <= -3, 0.0, np.where(x < 3, (2 * x + 3) / 6, 1.0)),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "hardsigmoid": lambda x: ((x > -3) & (x < 3)) / 6.0,
    "sigmoid": lambda x: _sigmoid(x) * (1 - _sigmoid(x)),
}
