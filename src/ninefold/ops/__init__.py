"""Convolution operators on PyTorch tensors: standard, depthwise, pointwise and fused separable.

Each checks its arguments, then makes one call of an operator in `torch.ops.ninefold`. Float32 on the CPU runs
in compiled kernels; float32, float16 and bfloat16 on a GPU in Triton's, where Triton is installed; every
other dtype and device, and autocast, in PyTorch's own operators. Gradients, `torch.compile` and
`torch.export` work as for PyTorch's. Results keep the memory format of `x`: channels_last is native, NCHW is
converted and given back as NCHW.

Shared arguments: `stride` and `dilation` are an int or an (h, w) pair. `padding` is an int, an (h, w) pair,
four ints (left, right, top, bottom), "valid", "same" (PyTorch's, for stride 1) or "same_upper" (TensorFlow's,
for any stride). An activation is None, "relu", "relu6", "silu", "hardswish", "gelu", "gelu_tanh",
"hardsigmoid" or "sigmoid". A residual is added after the activation: activation(conv(x) + bias) + residual.

All raise TypeError for an argument of the wrong kind (tensors of different dtypes or devices included) and
ValueError for a wrong value or shape, before any work.
"""

from __future__ import annotations

from typing import Any

import torch

from ninefold.ops import arguments, backend, fallback, forward, library

__all__ = ["conv2d", "depthwise_conv2d", "pointwise_conv2d", "separable_conv2d"]


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    activation: str | None = None,
) -> torch.Tensor:
    """Return activation(conv(x) + bias), (batch, N, H', W').

    `x` is (batch, C, H, W) in any memory format, `weight` (N, C/groups, kh, kw), `bias` (N,).
    """
    way = forward if backend.unobserved((x, weight), (bias,)) else _way(x, weight=weight, bias=bias)
    geometry = arguments.remembered(
        arguments.standard, x.shape, weight.shape, _shape(bias), stride, padding, dilation, groups, activation
    )
    return way.conv2d(x, weight, bias, *geometry, activation)


def depthwise_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    activation: str | None = None,
) -> torch.Tensor:
    """Filter each channel of `x` on its own; return activation(conv(x) + bias).

    `x` is (batch, C, H, W) in any memory format, `weight` (C·multiplier, 1, kh, kw), `bias` (C·multiplier,).
    Channel c of `x` makes the channels c·multiplier + m of the result (batch, C·multiplier, H', W').
    """
    way = forward if backend.unobserved((x, weight), (bias,)) else _way(x, weight=weight, bias=bias)
    stride, padding, dilation, _ = arguments.remembered(
        arguments.depthwise, x.shape, weight.shape, _shape(bias), stride, padding, dilation, activation
    )
    return way.depthwise_conv2d(x, weight, bias, stride, padding, dilation, activation)


def pointwise_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """Combine the channels of each pixel; return activation(conv(x) + bias) + residual, (batch, N, H, W).

    `x` is (batch, C, H, W) in any memory format, `weight` (N, C, 1, 1), `bias` (N,), `residual` of the
    result's shape.
    """
    way = forward
    if not backend.unobserved((x, weight), (bias, residual)):
        way = _way(x, weight=weight, bias=bias, residual=residual)
    arguments.remembered(
        arguments.pointwise, x.shape, weight.shape, _shape(bias), activation, _shape(residual)
    )
    return way.pointwise_conv2d(x, weight, bias, activation, residual)


def separable_conv2d(
    x: torch.Tensor,
    depthwise_weight: torch.Tensor,
    pointwise_weight: torch.Tensor,
    depthwise_bias: torch.Tensor | None = None,
    pointwise_bias: torch.Tensor | None = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    depthwise_activation: str | None = None,
    activation: str | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """Filter, then combine, without storing what lies between; return (batch, N, H', W').

    activation(pointwise(depthwise_activation(depthwise(x) + depthwise_bias)) + pointwise_bias) + residual,
    where `x` is (batch, C, H, W) in any memory format, `depthwise_weight` (C·multiplier, 1, kh, kw),
    `pointwise_weight` (N, C·multiplier, 1, 1), `depthwise_bias` (C·multiplier,), `pointwise_bias` (N,) and
    `residual` of the result's shape. Stride, padding and dilation are the depthwise stage's.
    """
    way = forward
    weights, biases = (depthwise_weight, pointwise_weight), (depthwise_bias, pointwise_bias)
    if not backend.unobserved((x, *weights), (*biases, residual)):
        way = _way(
            x,
            depthwise_weight=depthwise_weight,
            pointwise_weight=pointwise_weight,
            depthwise_bias=depthwise_bias,
            pointwise_bias=pointwise_bias,
            residual=residual,
        )
    stride, padding, dilation, _ = arguments.remembered(
        arguments.separable,
        x.shape,
        depthwise_weight.shape,
        pointwise_weight.shape,
        _shape(depthwise_bias),
        _shape(pointwise_bias),
        stride,
        padding,
        dilation,
        depthwise_activation,
        activation,
        _shape(residual),
    )
    geometry = stride, padding, dilation
    return way.separable_conv2d(x, *weights, *biases, *geometry, depthwise_activation, activation, residual)


def _way(x: torch.Tensor, **others: torch.Tensor | None) -> Any:
    """Where a call that is observed goes: through PyTorch's dispatcher, or into its operators.

    TypeError for what is no good tensor.
    """
    arguments.check_tensors(x, **others)
    return fallback if backend.taken_apart(x) else library


def _shape(tensor: torch.Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape
