"""The definitions in NumPy, float64: slow, obvious, the truth that tests compare with.

Each function loops over the kernel's taps and writes the sum that the definition writes. `x` is
(batch, channels, H, W), weights are PyTorch's, and a bad argument raises what `ninefold.shape` says. Nothing
outside the tests imports this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ninefold.shape import ConvShape, check_activation, check_residual, separable

Array = NDArray[np.float64]

_erfc: Callable[[Array], Any] = np.frompyfunc(math.erfc, 1, 1)


def _gelu(x: Array) -> Array:
    # x · P(X ≤ x) for a standard normal X. `erfc` keeps the digits that 1 + erf loses for negative x.
    return 0.5 * x * np.asarray(_erfc(-x / math.sqrt(2)), dtype=np.float64)


_ACTIVATIONS: dict[str | None, Callable[[Array], Array]] = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "gelu": _gelu,
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def activate(x: ArrayLike, activation: str | None) -> Array:
    """Apply an activation by its name. NaN stays NaN; the infinities give what PyTorch gives."""
    function = _ACTIVATIONS[check_activation(activation)]
    with np.errstate(over="ignore", invalid="ignore"):
        return function(np.asarray(x, dtype=np.float64))


def conv2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    activation: str | None = None,
) -> Array:
    """out[n, o, y, x] = activation(bias[o] + Σ[c, i, j] weight[o, c, i, j] · in[n, c, y·s + i·d, x·s + j·d]).

    `weight` is (N, C/groups, kh, kw); each of the `groups` sees its own channels.
    """
    x, weight, bias = _arrays(x, weight, bias)
    shape = ConvShape.standard(
        x.shape,
        weight.shape,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias_shape=_shape(bias),
    )
    pixels = math.prod(shape.output_size)
    kernels = weight.reshape(groups, shape.multiplier, shape.channels_per_group, *shape.kernel_size)
    out = np.zeros((shape.batch, groups, shape.multiplier, pixels))
    for i, j, seen in _taps(x, shape):
        grouped = seen.reshape(shape.batch, groups, shape.channels_per_group, pixels)
        out += kernels[:, :, :, i, j] @ grouped
    return _finish(out.reshape(shape.output_shape), bias, activation)


def depthwise_conv2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    activation: str | None = None,
) -> Array:
    """Filter each channel on its own: output channel c·multiplier + m is input channel c under its kernel m.

    `weight` is (C·multiplier, 1, kh, kw).
    """
    x, weight, bias = _arrays(x, weight, bias)
    shape = ConvShape.depthwise(
        x.shape, weight.shape, stride=stride, padding=padding, dilation=dilation, bias_shape=_shape(bias)
    )
    out = np.zeros(shape.output_shape)
    for i, j, seen in _taps(x, shape):
        for m in range(shape.multiplier):
            out[:, m :: shape.multiplier] += weight[m :: shape.multiplier, 0, i, j, None, None] * seen
    return _finish(out, bias, activation)


def pointwise_conv2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    activation: str | None = None,
    residual: ArrayLike | None = None,
) -> Array:
    """Combine each pixel's channels; `weight` is (N, C, 1, 1). The residual is added after the activation."""
    x, weight, bias = _arrays(x, weight, bias)
    shape = ConvShape.pointwise(x.shape, weight.shape, bias_shape=_shape(bias))
    if residual is not None:
        residual = np.asarray(residual, dtype=np.float64)
        check_residual(residual.shape, shape.output_shape)
    pixels = x.reshape(shape.batch, shape.in_channels, math.prod(shape.input_size))
    out = _finish((weight[:, :, 0, 0] @ pixels).reshape(shape.output_shape), bias, activation)
    return out if residual is None else out + residual


def separable_conv2d(
    x: ArrayLike,
    depthwise_weight: ArrayLike,
    pointwise_weight: ArrayLike,
    depthwise_bias: ArrayLike | None = None,
    pointwise_bias: ArrayLike | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    depthwise_activation: str | None = None,
    activation: str | None = None,
    residual: ArrayLike | None = None,
) -> Array:
    """Filter, then combine: depthwise, with a bias and an activation, then pointwise, with its own.

    The residual is added last, after the activation.
    """
    separable(
        np.shape(x),
        np.shape(depthwise_weight),
        np.shape(pointwise_weight),
        stride=stride,
        padding=padding,
        dilation=dilation,
        depthwise_bias_shape=_shape(depthwise_bias),
        pointwise_bias_shape=_shape(pointwise_bias),
        residual_shape=_shape(residual),
    )
    check_activation(depthwise_activation, argument="depthwise_activation")
    between = depthwise_conv2d(
        x,
        depthwise_weight,
        depthwise_bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        activation=depthwise_activation,
    )
    return pointwise_conv2d(
        between, pointwise_weight, pointwise_bias, activation=activation, residual=residual
    )


def _arrays(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None) -> tuple[Array, Array, Array | None]:
    wide = np.float64
    return np.asarray(x, wide), np.asarray(weight, wide), None if bias is None else np.asarray(bias, wide)


def _shape(array: ArrayLike | None) -> tuple[int, ...] | None:
    return None if array is None else np.shape(array)


def _taps(x: Array, shape: ConvShape) -> Iterator[tuple[int, int, Array]]:
    """Yield each tap of the kernel with the padded input's pixels that it meets, one per output pixel."""
    left, right, top, bottom = shape.padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    height, width = shape.output_size
    for i in range(shape.kernel_size[0]):
        for j in range(shape.kernel_size[1]):
            first_row, first_column = i * shape.dilation[0], j * shape.dilation[1]
            rows = slice(first_row, first_row + (height - 1) * shape.stride[0] + 1, shape.stride[0])
            columns = slice(first_column, first_column + (width - 1) * shape.stride[1] + 1, shape.stride[1])
            yield i, j, padded[:, :, rows, columns]


def _finish(out: Array, bias: Array | None, activation: str | None) -> Array:
    return activate(out if bias is None else out + bias[:, None, None], activation)
