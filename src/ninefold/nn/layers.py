"""Depthwise, pointwise and separable convolutions as modules, one operator each."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ninefold import ops, shape

__all__ = ["DepthwiseConv2d", "PointwiseConv2d", "SeparableConv2d"]


class DepthwiseConv2d(nn.Module):
    """Filter each channel on its own: (batch, C, H, W) → (batch, C·multiplier, H', W').

    `weight` is (C·multiplier, 1, kh, kw), `bias` (C·multiplier,). Raises ValueError and TypeError for a bad
    argument.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        multiplier: int = 1,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        bias: bool = True,
        activation: str | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = shape.integer("in_channels", in_channels)
        self.multiplier = shape.integer("multiplier", multiplier)
        self.out_channels = self.in_channels * self.multiplier
        self.kernel_size = shape.pair("kernel_size", kernel_size)
        self.stride, self.dilation = shape.pair("stride", stride), shape.pair("dilation", dilation)
        self.padding = _padding(padding, self.kernel_size, self.stride, self.dilation)
        self.activation = shape.check_activation(activation)
        size = (self.out_channels, 1, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(size, device=device, dtype=dtype))
        _add_bias(self, bias)
        self.reset_parameters()

    @classmethod
    def from_keras(cls, depthwise_kernel: Any, bias: Any = None, **options: Any) -> DepthwiseConv2d:
        """Make the layer from Keras's kernel (kh, kw, C, multiplier) and bias (C·multiplier,).

        Arrays of any kind; `options` are the constructor's stride, padding, dilation and activation.
        """
        weight = _keras_depthwise("depthwise_kernel", depthwise_kernel)
        kh, kw, channels, multiplier = torch.as_tensor(depthwise_kernel).shape
        layer = cls(
            channels,
            (kh, kw),
            multiplier=multiplier,
            bias=bias is not None,
            device=weight.device,
            dtype=weight.dtype,
            **options,
        )
        _load(layer, weight, bias)
        return layer

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, from the distributions of `torch.nn.Conv2d`."""
        _reset(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return activation(depthwise(x) + bias)."""
        return ops.depthwise_conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            activation=self.activation,
        )

    def extra_repr(self) -> str:
        """What tells this layer from another."""
        multiplier = {"multiplier": (self.multiplier, 1)}
        return _words(self, f"{self.in_channels}, kernel_size={self.kernel_size}", multiplier | _window(self))


class PointwiseConv2d(nn.Module):
    """Combine the channels of each pixel: (batch, C, H, W) → (batch, N, H, W).

    `weight` is (N, C, 1, 1), `bias` (N,). Raises ValueError and TypeError for a bad argument.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bias: bool = True,
        activation: str | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = shape.integer("in_channels", in_channels)
        self.out_channels = shape.integer("out_channels", out_channels)
        self.activation = shape.check_activation(activation)
        size = (self.out_channels, self.in_channels, 1, 1)
        self.weight = nn.Parameter(torch.empty(size, device=device, dtype=dtype))
        _add_bias(self, bias)
        self.reset_parameters()

    @classmethod
    def from_keras(cls, pointwise_kernel: Any, bias: Any = None, **options: Any) -> PointwiseConv2d:
        """Make the layer from Keras's kernel (1, 1, C, N) and bias (N,), arrays of any kind.

        `options` are the constructor's: activation.
        """
        weight = _keras_pointwise("pointwise_kernel", pointwise_kernel)
        layer = cls(
            weight.shape[1],
            weight.shape[0],
            bias=bias is not None,
            device=weight.device,
            dtype=weight.dtype,
            **options,
        )
        _load(layer, weight, bias)
        return layer

    def reset_parameters(self) -> None:
        """Draw weight and bias anew, from the distributions of `torch.nn.Conv2d`."""
        _reset(self.weight, self.bias)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return activation(pointwise(x) + bias) + residual."""
        return ops.pointwise_conv2d(x, self.weight, self.bias, activation=self.activation, residual=residual)

    def extra_repr(self) -> str:
        """What tells this layer from another."""
        return _words(self, f"{self.in_channels}, {self.out_channels}", {})


class SeparableConv2d(nn.Module):
    """Filter, then combine, as one operator: (batch, C, H, W) → (batch, N, H', W').

    Holds a `depthwise` and a `pointwise` layer, so that the state_dict has `depthwise.weight`,
    `pointwise.weight` and so on. `bias` is the pointwise stage's, as in Keras; the depthwise stage gets one
    with `depthwise_bias=True`. Raises ValueError and TypeError for a bad argument.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        multiplier: int = 1,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        bias: bool = True,
        depthwise_bias: bool = False,
        depthwise_activation: str | None = None,
        activation: str | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shape.check_activation(depthwise_activation, argument="depthwise_activation")
        self.depthwise = DepthwiseConv2d(
            in_channels,
            kernel_size,
            multiplier=multiplier,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=depthwise_bias,
            activation=depthwise_activation,
            device=device,
            dtype=dtype,
        )
        self.pointwise = PointwiseConv2d(
            self.depthwise.out_channels,
            out_channels,
            bias=bias,
            activation=activation,
            device=device,
            dtype=dtype,
        )

    @classmethod
    def from_keras(
        cls, depthwise_kernel: Any, pointwise_kernel: Any, bias: Any = None, **options: Any
    ) -> SeparableConv2d:
        """Make the layer from Keras's kernels (kh, kw, C, multiplier) and (1, 1, C·multiplier, N).

        `bias` is (N,). Arrays of any kind; `options` are the constructor's stride, padding, dilation and
        activations.
        """
        depthwise = _keras_depthwise("depthwise_kernel", depthwise_kernel)
        pointwise = _keras_pointwise("pointwise_kernel", pointwise_kernel)
        kh, kw, channels, multiplier = torch.as_tensor(depthwise_kernel).shape
        if pointwise.shape[1] != channels * multiplier:
            raise ValueError(
                f"`pointwise_kernel` must take {channels * multiplier} input channels, "
                f"got {pointwise.shape[1]}"
            )
        layer = cls(
            channels,
            pointwise.shape[0],
            (kh, kw),
            multiplier=multiplier,
            bias=bias is not None,
            device=depthwise.device,
            dtype=depthwise.dtype,
            **options,
        )
        _load(layer.depthwise, depthwise, None)
        _load(layer.pointwise, pointwise, bias)
        return layer

    def reset_parameters(self) -> None:
        """Draw weights and biases anew, from the distributions of `torch.nn.Conv2d`."""
        self.depthwise.reset_parameters()
        self.pointwise.reset_parameters()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return activation(pointwise(depthwise_activation(depthwise(x)))) + residual, biases included."""
        first, last = self.depthwise, self.pointwise
        return ops.separable_conv2d(
            x,
            first.weight,
            last.weight,
            first.bias,
            last.bias,
            stride=first.stride,
            padding=first.padding,
            dilation=first.dilation,
            depthwise_activation=first.activation,
            activation=last.activation,
            residual=residual,
        )


def _padding(padding: Any, kernel_size: shape.Pair, stride: shape.Pair, dilation: shape.Pair) -> Any:
    shape.resolve_padding(
        padding, kernel_size=kernel_size, stride=stride, dilation=dilation, input_size=kernel_size
    )
    return tuple(padding) if isinstance(padding, list) else padding


def _add_bias(layer: nn.Module, wanted: bool) -> None:
    if not isinstance(wanted, bool):
        raise TypeError(f"`bias` must be a bool, got {wanted!r}")
    weight: Any = layer.weight
    layer.register_parameter("bias", nn.Parameter(weight.new_empty(weight.shape[0])) if wanted else None)


def _reset(weight: Tensor, bias: Tensor | None) -> None:
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        bound = 1 / math.sqrt(math.prod(weight.shape[1:]))
        nn.init.uniform_(bias, -bound, bound)


def _keras_depthwise(name: str, kernel: Any) -> Tensor:
    tensor = _floats(kernel)
    if tensor.dim() != 4:
        raise ValueError(
            f"`{name}` must have shape (kh, kw, channels, multiplier), got {tuple(tensor.shape)}"
        )
    kh, kw, channels, multiplier = tensor.shape
    return tensor.permute(2, 3, 0, 1).reshape(channels * multiplier, 1, kh, kw)


def _keras_pointwise(name: str, kernel: Any) -> Tensor:
    tensor = _floats(kernel)
    if tensor.dim() != 4 or tensor.shape[:2] != (1, 1):
        raise ValueError(
            f"`{name}` must have shape (1, 1, in_channels, out_channels), got {tuple(tensor.shape)}"
        )
    return tensor.permute(3, 2, 0, 1)


def _floats(array: Any) -> Tensor:
    tensor = torch.as_tensor(array)
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())


def _load(layer: DepthwiseConv2d | PointwiseConv2d, weight: Tensor, bias: Any) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            values = _floats(bias)
            if values.shape != layer.bias.shape:
                raise ValueError(
                    f"`bias` must have shape {tuple(layer.bias.shape)}, got {tuple(values.shape)}"
                )
            layer.bias.copy_(values)


def _window(layer: DepthwiseConv2d) -> dict[str, tuple[Any, Any]]:
    return {
        "stride": (layer.stride, (1, 1)),
        "padding": (layer.padding, 0),
        "dilation": (layer.dilation, (1, 1)),
    }


def _words(layer: DepthwiseConv2d | PointwiseConv2d, start: str, options: dict[str, tuple[Any, Any]]) -> str:
    options = options | {"bias": (layer.bias is not None, True), "activation": (layer.activation, None)}
    said = [f"{name}={value!r}" for name, (value, usual) in options.items() if value != usual]
    return ", ".join([start, *said])
