"""The operators in Triton's kernels (`ninefold.gpu`): float32, float16 and bfloat16 on a CUDA device.

Arguments as in `ops/fallback.py`; images come in any memory format and leave channels-last. What has no
kernel here (standard convolutions, depth multipliers, strides beyond 4 in the backward pass) is PyTorch's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ninefold.gpu import depthwise, depthwise_weight, pointwise, pointwise_weight, separable
from ninefold.gpu.window import Window
from ninefold.ops import fallback, gradients

_MOST_TAPS = 49  # a kernel is unrolled over its window
_MOST_STRIDE = 4

conv2d = fallback.conv2d


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str | None,
) -> Tensor:
    """activation(depthwise(x) + bias)."""
    window = _window(weight, stride, padding, dilation)
    if weight.shape[0] != x.shape[1] or window is None:
        return fallback.depthwise_conv2d(x, weight, bias, stride, padding, dilation, activation)
    size = window.output_size(x.shape[2], x.shape[3])
    config = depthwise.configs(window, size, x.shape[1])[0]
    taps = depthwise.taps_first(weight)
    return depthwise.depthwise(
        _image(x), taps, window, size, config=config, shift=bias, activation=activation
    )[0]


def pointwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, residual: Tensor | None
) -> Tensor:
    """activation(pointwise(x) + bias) + residual."""
    outputs, channels = weight.shape[:2]
    return pointwise.pointwise(
        _image(x),
        weight.detach().reshape(outputs, channels),
        config=pointwise.configs(channels, outputs)[0],
        shift=bias,
        activation=activation,
        residual=None if residual is None else _image(residual),
    )[0]


def separable_conv2d(
    x: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    depthwise_activation: str | None,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """activation(pointwise(depthwise_activation(depthwise(x) + bias)) + bias) + residual, in one kernel."""
    outputs, channels = pointwise_weight.shape[:2]
    window = _window(depthwise_weight, stride, padding, dilation)
    if channels != x.shape[1] or window is None:
        geometry = stride, padding, dilation
        filtered = depthwise_conv2d(x, depthwise_weight, depthwise_bias, *geometry, depthwise_activation)
        return pointwise_conv2d(filtered, pointwise_weight, pointwise_bias, activation, residual)
    size = window.output_size(x.shape[2], x.shape[3])
    return separable.separable(
        _image(x),
        depthwise.taps_first(depthwise_weight),
        pointwise_weight.detach().reshape(outputs, channels).contiguous(),
        window,
        config=separable.configs(window, size, channels, outputs)[0],
        depthwise_shift=depthwise_bias,
        shift=pointwise_bias,
        depthwise_activation=depthwise_activation,
        activation=activation,
        residual=None if residual is None else _image(residual),
    )


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needed: tuple[bool, bool, bool],
) -> gradients.Gradients:
    """`gradients.convolution`, without a bias; in the kernels where they can, else in PyTorch."""
    outputs, inputs, tall, wide = weight.shape
    flat = (tall, wide, *stride, *padding, groups) == (1, 1, 1, 1, 0, 0, 0, 0, 1)
    window = _window(weight, stride, padding, dilation)
    deep = groups == outputs == x.shape[1] and inputs == 1 and max(stride) <= _MOST_STRIDE
    if not flat and not (deep and window is not None):
        return gradients.convolution(grad, x, weight, bias, stride, padding, dilation, groups, needed)
    along = weights = None
    grad = _image(grad)
    if flat:
        table = weight.detach().reshape(outputs, inputs)
        if needed[0]:
            config = pointwise.configs(outputs, inputs)[0]
            along, _ = pointwise.pointwise(grad, table, config=config, transposed=True)
        if needed[1]:
            config = pointwise_weight.configs(inputs, outputs)[0]
            weights = pointwise_weight.pointwise_weight(grad, _image(x), config=config)
    else:
        assert window is not None
        size = x.shape[2], x.shape[3]
        if needed[0]:
            config = depthwise.configs(window, size, outputs, backward=True)[0]
            taps = depthwise.taps_first(weight)
            along, _ = depthwise.depthwise(grad, taps, window, size, config=config, backward=True)
        if needed[1]:
            config = depthwise_weight.configs(window, (grad.shape[2], grad.shape[3]), outputs)[0]
            weights = depthwise_weight.depthwise_weight(grad, _image(x), window, config=config)
    return along, None if weights is None else weights.to(weight.dtype), None


def _window(
    weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Window | None:
    """The window as the kernels take it, or None for one that would be unrolled too far."""
    tall, wide = weight.shape[2:]
    if tall * wide > _MOST_TAPS:
        return None
    left, right, top, bottom = padding
    return Window(
        (tall, wide), (stride[0], stride[1]), (left, right, top, bottom), (dilation[0], dilation[1])
    )


def _image(x: Tensor) -> Tensor:
    return x.detach().contiguous(memory_format=torch.channels_last)
