"""Depthwise, batch-norm, activation, pointwise, batch-norm, activation: the block of MobileNetV1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ninefold import ops, shape
from ninefold.nn.layers import DepthwiseConv2d, PointwiseConv2d
from ninefold.ops import arguments, fallback
from ninefold.ops.layout import memory_format


class SeparableBlock(nn.Module):
    """A separable convolution with batch-norm behind each stage: (batch, C, H, W) → (batch, N, H', W').

    Holds `depthwise`, `depthwise_norm`, `pointwise` and `pointwise_norm`; the norms are PyTorch's BatchNorm2d
    with the given `eps` and `momentum`, the convolutions have no biases. With `residual` the input is added
    behind the last activation, as in MobileNetV2. Where gradients are wanted the block is one differentiable
    function that keeps the convolutions' outputs and computes the rest again; in eval mode without gradients
    the norms are folded into one fused convolution.

    Raises ValueError and TypeError for a bad argument, and ValueError in training mode for a batch with one
    value per channel, as PyTorch does.
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
        depthwise_activation: str | None = "relu",
        activation: str | None = "relu",
        residual: bool = False,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.depthwise_activation = shape.check_activation(
            depthwise_activation, argument="depthwise_activation"
        )
        self.activation = shape.check_activation(activation)
        self.depthwise = DepthwiseConv2d(
            in_channels,
            kernel_size,
            multiplier=multiplier,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=False,
            **made,
        )
        channels = self.depthwise.out_channels
        self.depthwise_norm = nn.BatchNorm2d(channels, eps, momentum, **made)
        self.pointwise = PointwiseConv2d(channels, out_channels, bias=False, **made)
        self.pointwise_norm = nn.BatchNorm2d(out_channels, eps, momentum, **made)
        if residual and (in_channels != out_channels or self.depthwise.stride != (1, 1)):
            raise ValueError(
                "`residual` must be False where the image changes, got True with "
                f"{in_channels} → {out_channels} channels and stride {self.depthwise.stride}"
            )
        self.residual = residual
        self._runs: dict[Any, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Return activation(norm(pointwise(depthwise_activation(norm(depthwise(x)))))) [+ x]."""
        first = self.depthwise
        arguments.check_tensors(x, weight=first.weight, bias=None)
        geometry = arguments.remembered(
            arguments.depthwise,
            x.shape,
            first.weight.shape,
            None,
            first.stride,
            first.padding,
            first.dilation,
            None,
        )
        if torch.compiler.is_compiling():
            return self._written_out(x, geometry)
        if self._is_frozen(x):
            return self._folded(x)
        return self._trained(x, geometry)

    def _written_out(self, x: Tensor, geometry: arguments.Geometry) -> Tensor:
        """In PyTorch's operators, for a compiler to put together."""
        y = self.depthwise_norm(fallback.convolve(x, self.depthwise.weight, None, *geometry))
        y = fallback.ACTIVATIONS[self.depthwise_activation](y)
        y = self.pointwise_norm(functional.conv2d(y, self.pointwise.weight))
        y = fallback.ACTIVATIONS[self.activation](y)
        return y + x if self.residual else y

    def _trained(self, x: Tensor, geometry: arguments.Geometry) -> Tensor:
        norms = self.depthwise_norm, self.pointwise_norm
        weights = self.depthwise.weight, self.pointwise.weight
        momenta = [_momentum(norm) for norm in norms]
        tensors: Any = [
            (weight, None, norm.weight, norm.bias, *_running(norm))
            for weight, norm in zip(weights, norms, strict=True)
        ]
        batch = tuple(_uses_batch(norm) for norm in norms)
        run = self._runs.get((geometry, batch))
        if run is None:
            run = self._runs[geometry, batch] = self._fused(geometry, batch)
        out: Tensor = run(x, tensors, momenta, x if self.residual else None)
        return out.contiguous(memory_format=memory_format(x))

    def _fused(self, geometry: arguments.Geometry, batch: tuple[bool, ...]) -> nn.Module:
        # Imported here: it takes PyTorch's compiler with it, which who only infers does not need.
        from ninefold.training.chain import Normalisation, Stage
        from ninefold.training.fused import Fused

        first, last = (
            Normalisation(norm.eps, uses)
            for norm, uses in zip((self.depthwise_norm, self.pointwise_norm), batch, strict=True)
        )
        stride, padding, dilation, groups = geometry
        depthwise = Stage("depthwise", stride, padding, dilation, groups, first, self.depthwise_activation)
        pointwise = Stage("pointwise", (1, 1), (0, 0, 0, 0), (1, 1), 1, last, self.activation)
        return Fused((depthwise, pointwise), "float32")

    def _is_frozen(self, x: Tensor) -> bool:
        """Whether nothing is to be learnt from this call: no gradient, no statistics."""
        if _uses_batch(self.depthwise_norm) or _uses_batch(self.pointwise_norm):
            return False
        wanted = x.requires_grad or any(parameter.requires_grad for parameter in self.parameters())
        return not (torch.is_grad_enabled() and wanted)

    def _folded(self, x: Tensor) -> Tensor:
        depthwise_weight, depthwise_bias = _fold(self.depthwise.weight, self.depthwise_norm)
        pointwise_weight, pointwise_bias = _fold(self.pointwise.weight, self.pointwise_norm)
        return ops.separable_conv2d(
            x,
            depthwise_weight,
            pointwise_weight,
            depthwise_bias,
            pointwise_bias,
            stride=self.depthwise.stride,
            padding=self.depthwise.padding,
            dilation=self.depthwise.dilation,
            depthwise_activation=self.depthwise_activation,
            activation=self.activation,
            residual=x if self.residual else None,
        )

    def extra_repr(self) -> str:
        """What the parts do not say."""
        said = f"depthwise_activation={self.depthwise_activation!r}, activation={self.activation!r}"
        return f"{said}, residual=True" if self.residual else said


def _uses_batch(norm: nn.BatchNorm2d) -> bool:
    return norm.training or norm.running_mean is None


def _running(norm: nn.BatchNorm2d) -> tuple[Tensor | None, Tensor | None]:
    """The running statistics, if they are to be used or updated."""
    if norm.training and not norm.track_running_stats:
        return None, None
    return norm.running_mean, norm.running_var


def _momentum(norm: nn.BatchNorm2d) -> float:
    """How far the running statistics move, as `BatchNorm2d.forward` has it; counts the batch."""
    counter = norm.num_batches_tracked
    if norm.training and norm.track_running_stats and counter is not None:
        counter.add_(1)
        if norm.momentum is None:
            return 1 / float(counter)
    return norm.momentum or 0.0


def _fold(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution with its norm, in eval mode, behind it."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
