"""The operators out of PyTorch's own: any dtype, any device, slower where the compiled kernels would do.

Weights as PyTorch has them: (N, C/groups, kh, kw), depthwise (C·multiplier, 1, kh, kw), pointwise
(N, C, 1, 1). Padding is resolved: (left, right, top, bottom). Every function is differentiable, as its
parts are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

ACTIVATIONS: dict[str | None, Callable[[torch.Tensor], torch.Tensor]] = {
    None: lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
}


def convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> torch.Tensor:
    """Convolve, before any activation; zeros are copied around `x` only where the padding is one-sided."""
    left, right, top, bottom = padding
    around = (top, left)
    if left != right or top != bottom:
        x, around = torch.constant_pad_nd(x, [left, right, top, bottom]), (0, 0)
    if x.shape[1] == 1 and x.stride(1) != x.shape[2] * x.shape[3]:
        # One channel's strides may say channels-last; PyTorch 2.13 then reads past it at a wide stride.
        x = x[:, 0].unsqueeze(1)
    return F.conv2d(x, weight, bias, stride, around, dilation, groups)


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str | None,
) -> torch.Tensor:
    """activation(convolve(x) + bias)."""
    return ACTIVATIONS[activation](convolve(x, weight, bias, stride, padding, dilation, groups))


def depthwise_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str | None,
) -> torch.Tensor:
    """activation(depthwise(x) + bias)."""
    return ACTIVATIONS[activation](convolve(x, weight, bias, stride, padding, dilation, x.shape[1]))


def pointwise_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str | None,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    """activation(pointwise(x) + bias) + residual."""
    out = ACTIVATIONS[activation](F.conv2d(x, weight, bias))
    return out if residual is None else out + residual


def separable_conv2d(
    x: torch.Tensor,
    depthwise_weight: torch.Tensor,
    pointwise_weight: torch.Tensor,
    depthwise_bias: torch.Tensor | None,
    pointwise_bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    depthwise_activation: str | None,
    activation: str | None,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    """activation(pointwise(depthwise_activation(depthwise(x) + bias)) + bias) + residual."""
    filtered = depthwise_conv2d(
        x, depthwise_weight, depthwise_bias, stride, padding, dilation, depthwise_activation
    )
    return pointwise_conv2d(filtered, pointwise_weight, pointwise_bias, activation, residual)
