"""Convolutions whose weights are packed once: what `for_inference` builds networks from.

Modules without autograd. They keep the plain weights, which is what is pickled and deep-copied; the packed
form belongs to one instruction set and is made at the first call. Without the compiled kernels, or for an
input they do not take, PyTorch's own operators compute the same.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ninefold.ops import backend, cpu, fallback

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]


class _Packed(nn.Module):
    """Holds the packed kernel, and leaves it behind when copied or pickled."""

    def __init__(self) -> None:
        super().__init__()
        self._kernel: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kernel": None}


class Conv2d(_Packed):
    """A standard, grouped, depthwise or pointwise convolution: x (batch, C, H, W) → (batch, N, H', W').

    `residual`, of the output's shape, is added after the activation.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: Pair = (1, 1),
        padding: Sides = (0, 0, 0, 0),
        dilation: Pair = (1, 1),
        groups: int = 1,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        self.weight, self.bias = weight.detach(), None if bias is None else bias.detach()
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.activation = activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Convolve x; channels-last in, channels-last out, without a copy."""
        if backend.for_call(x, self.weight) is None:
            out = fallback.conv2d(
                x,
                self.weight,
                self.bias,
                self.stride,
                self.padding,
                self.dilation,
                self.groups,
                self.activation,
            )
            return out if residual is None else out + residual
        if self._kernel is None:
            channels = self.weight.shape[1] * self.groups
            self._kernel = cpu.Convolution(
                self.weight, self.bias, self.stride, self.dilation, self.groups, self.activation, channels
            )
        return self._kernel(x, self.padding, residual)


class Separable(_Packed):
    """Depthwise, activation, pointwise, activation as one kernel: x (batch, C, H, W) → (batch, N, H', W').

    `residual`, of the output's shape, is added after the second activation.
    """

    def __init__(
        self,
        depthwise_weight: Tensor,
        pointwise_weight: Tensor,
        depthwise_bias: Tensor | None,
        pointwise_bias: Tensor | None,
        *,
        stride: Pair = (1, 1),
        padding: Sides = (0, 0, 0, 0),
        dilation: Pair = (1, 1),
        depthwise_activation: str | None = None,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        self.depthwise_weight, self.pointwise_weight = depthwise_weight.detach(), pointwise_weight.detach()
        self.depthwise_bias = None if depthwise_bias is None else depthwise_bias.detach()
        self.pointwise_bias = None if pointwise_bias is None else pointwise_bias.detach()
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.depthwise_activation, self.activation = depthwise_activation, activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Convolve x; channels-last in, channels-last out, without a copy."""
        weights = self.depthwise_weight, self.pointwise_weight, self.depthwise_bias, self.pointwise_bias
        window = self.stride, self.padding, self.dilation
        if backend.for_call(x, self.depthwise_weight) is None:
            return fallback.separable_conv2d(
                x, *weights, *window, self.depthwise_activation, self.activation, residual
            )
        if self._kernel is None:
            self._kernel = cpu.Separable(
                *weights, self.stride, self.dilation, self.depthwise_activation, self.activation, x.shape[1]
            )
        return self._kernel(x, self.padding, residual)
