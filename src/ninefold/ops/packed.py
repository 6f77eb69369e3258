"""Convolutions whose weights are packed once: what `for_inference` builds networks from.

Modules without autograd. They keep the plain weights, which is what is pickled and deep-copied; the packed
form belongs to one instruction set and is made at the first call; on a GPU there is none, and the operators
do the work. Without the compiled kernels, or for an input they do not take, PyTorch's own operators compute
the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ninefold import shape
from ninefold.ops import arguments, backend, cpu, fallback, library

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]


class Packed(nn.Module):
    """Holds the packed kernel, and leaves it behind when copied or pickled."""

    padding: Sides
    label: str = ""  # the layers it stands for, by their names in the network; only told, never used

    def __init__(self) -> None:
        super().__init__()
        self._kernel: Any = None

    @property
    def kernel(self) -> Any:
        """The packed form (`ops.cpu`), made at the first use."""
        if self._kernel is None:
            try:
                self._check()
            except AttributeError as error:  # which a property must not let through
                raise ValueError(f"a {type(self).__name__} must be as it was made, got {error}") from None
            with cpu.lasting():
                self._kernel = self._pack()
        return self._kernel

    def _check(self) -> None:
        """Raise ValueError or TypeError for what does not fit together: a saved layer may be altered."""
        raise NotImplementedError

    @property
    def in_channels(self) -> int:
        """Of the images that it takes."""
        raise NotImplementedError

    def _run(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """Call the kernel, which believes what it is told: weights outlive what they were checked with."""
        kernel, (n, channels, height, width) = self.kernel, x.shape
        if channels != self.in_channels:
            raise ValueError(f"`x` must have {self.in_channels} channels, got {channels}")
        if residual is not None:
            size = cpu._output_size(kernel, height, width, self.padding)
            if residual.dtype is not torch.float32 or residual.shape != (n, kernel.out_channels, *size):
                wanted, got = (n, kernel.out_channels, *size), tuple(residual.shape)
                raise ValueError(
                    f"`residual` must be float32 of shape {wanted}, got {residual.dtype} of {got}"
                )
        out: Tensor = kernel(x, self.padding, residual)
        return out

    def _pack(self) -> Any:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kernel": None}


class Conv2d(Packed):
    """A standard, grouped, depthwise or pointwise convolution: x (batch, C, H, W) → (batch, N, H', W').

    `residual`, of the output's shape, is added after the activation. With `winograd` a 3×3 convolution may
    take fewer multiplications (`kernels/winograd.py`): a result is then as near as the largest numbers beside
    it let it be, and a NaN reaches its neighbours.
    """

    winograd = False  # of layers saved before there was a choice

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
        winograd: bool = False,
    ) -> None:
        super().__init__()
        self.weight, self.bias = weight.detach(), None if bias is None else bias.detach()
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.activation, self.winograd = activation, winograd

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Convolve x; channels-last in, channels-last out, without a copy."""
        if backend.on_gpu(x):
            return self._on_gpu(x, residual)
        reach = backend.reach(x.shape, self.stride, self.padding, self.dilation)
        if backend.for_call(x, self.weight, reach) is None:
            geometry = self.stride, self.padding, self.dilation, self.groups
            plain = fallback.conv2d(x, self.weight, self.bias, *geometry, self.activation)
            return plain if residual is None else plain + residual
        return self._run(x, residual)

    def _check(self) -> None:
        weight = _numbers("weight", self.weight, 4)
        bias = None if self.bias is None else _numbers("bias", self.bias, 1).shape
        groups = shape.integer("groups", self.groups)
        image = _smallest(weight.shape[1] * groups, weight, self.dilation)
        sizes = self.stride, self.padding, self.dilation, groups, self.activation
        arguments.standard(image, weight.shape, bias, *sizes)

    def _on_gpu(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """The operator for it, which packs nothing: Triton's kernels take weights as they are."""
        weight, geometry = self.weight, (self.stride, self.padding, self.dilation)
        plain = tuple(weight.shape[2:]) == (1, 1) and self.groups == 1 and not any(self.padding)
        if plain and self.stride == (1, 1):
            return library.pointwise_conv2d(x, weight, self.bias, self.activation, residual)
        if self.groups == x.shape[1] == weight.shape[0]:
            out = library.depthwise_conv2d(x, weight, self.bias, *geometry, self.activation)
        else:
            out = library.conv2d(x, weight, self.bias, *geometry, self.groups, self.activation)
        return out if residual is None else out + residual

    @property
    def in_channels(self) -> int:
        """Of the images that it takes."""
        return self.weight.shape[1] * self.groups

    def _pack(self) -> cpu.Convolution:
        geometry = self.stride, self.dilation, self.groups
        options = self.activation, self.in_channels, bool(self.winograd)
        return cpu.Convolution(self.weight, self.bias, *geometry, *options)


class Separable(Packed):
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
        multiplier: int = 1,
        depthwise_activation: str | None = None,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        self.depthwise_weight, self.pointwise_weight = depthwise_weight.detach(), pointwise_weight.detach()
        self.depthwise_bias = None if depthwise_bias is None else depthwise_bias.detach()
        self.pointwise_bias = None if pointwise_bias is None else pointwise_bias.detach()
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.channels = depthwise_weight.shape[0] // multiplier
        self.depthwise_activation, self.activation = depthwise_activation, activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Convolve x; channels-last in, channels-last out, without a copy."""
        if backend.on_gpu(x):
            geometry = self.stride, self.padding, self.dilation
            last = self.depthwise_activation, self.activation, residual
            return library.separable_conv2d(x, *self._weights, *geometry, *last)
        reach = backend.reach(x.shape, self.stride, self.padding, self.dilation)
        if backend.for_call(x, self.depthwise_weight, reach) is None:
            activations = self.depthwise_activation, self.activation
            return fallback.separable_conv2d(
                x, *self._weights, self.stride, self.padding, self.dilation, *activations, residual
            )
        return self._run(x, residual)

    @property
    def _weights(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        return self.depthwise_weight, self.pointwise_weight, self.depthwise_bias, self.pointwise_bias

    def _check(self) -> None:
        weights = [
            _numbers(name, getattr(self, name), 4).shape for name in ("depthwise_weight", "pointwise_weight")
        ]
        biases = [
            None if getattr(self, name) is None else _numbers(name, getattr(self, name), 1).shape
            for name in ("depthwise_bias", "pointwise_bias")
        ]
        image = _smallest(shape.integer("channels", self.channels), self.depthwise_weight, self.dilation)
        arguments.separable(
            image,
            *(weights[0], weights[1], biases[0], biases[1]),
            *(self.stride, self.padding, self.dilation),
            *(self.depthwise_activation, self.activation, None),
        )

    @property
    def in_channels(self) -> int:
        """Of the images that it takes."""
        return self.channels

    def _pack(self) -> cpu.Separable:
        activations = self.depthwise_activation, self.activation
        return cpu.Separable(*self._weights, self.stride, self.dilation, *activations, self.channels)


class Inverted(Packed):
    """Pointwise, depthwise, pointwise as one kernel: MobileNetV2's inverted residual.

    x (batch, C, H, W) → (batch, N, H', W'), an activation after each stage. `residual`, of the output's
    shape, is added after the last. Without a projection it ends with the depthwise stage: where a
    squeeze-and-excitation stands between them.
    """

    def __init__(self, expansion: Conv2d, depthwise: Conv2d, projection: Conv2d | None = None) -> None:
        super().__init__()
        self.expansion, self.depthwise, self.projection = expansion, depthwise, projection
        self.padding = depthwise.padding

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Convolve x; channels-last in, channels-last out, without a copy."""
        filtering = self.depthwise
        if backend.on_gpu(x):
            wide = self.expansion(x)
            return (
                self.depthwise(wide, residual)
                if self.projection is None
                else self.projection(self.depthwise(wide), residual)
            )
        reach = backend.reach(x.shape, filtering.stride, filtering.padding, filtering.dilation)
        if backend.for_call(x, self.expansion.weight, reach) is None:
            if self.projection is None:
                return self.depthwise(self.expansion(x), residual)
            return self.projection(self.depthwise(self.expansion(x)), residual)
        return self._run(x, residual)

    def _check(self) -> None:
        depthwise, given = self.depthwise, self.expansion.kernel.out_channels
        depthwise._check()
        if self.padding != depthwise.padding:
            raise ValueError(f"`padding` must be the depthwise stage's, got {self.padding}")
        if depthwise.groups != given or depthwise.weight.shape[1] != 1:
            raise ValueError(f"`depthwise` must take the channels that the expansion gives, {given}")
        for stage in (self.expansion, self.projection):
            if stage is not None and not (stage.kernel.flat and not any(stage.padding)):
                raise ValueError("`expansion` and `projection` must be pointwise")

    @property
    def in_channels(self) -> int:
        """Of the images that it takes."""
        return self.expansion.in_channels

    def _pack(self) -> cpu.Inverted:
        last = None if self.projection is None else self.projection.kernel
        return cpu.Inverted(self.expansion.kernel, self.depthwise.kernel, last)


def _numbers(name: str, tensor: Any, dimensions: int) -> Tensor:
    """What the kernels take addresses of."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"`{name}` must be a torch.Tensor, got {type(tensor).__name__}")
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu"
    if tensor.dtype is not torch.float32 or not dense or tensor.dim() != dimensions:
        what = f"{tensor.dim()} dimensions of {tensor.dtype} on {tensor.device}"
        raise ValueError(f"`{name}` must have {dimensions} dimensions of float32 on the CPU, got {what}")
    return tensor


def _smallest(channels: int, weight: Tensor, dilation: Pair) -> tuple[int, int, int, int]:
    """The smallest image that a kernel fits."""
    rows, columns = (
        (k - 1) * d + 1 for k, d in zip(weight.shape[2:], shape.pair("dilation", dilation), strict=True)
    )
    return 1, channels, rows, columns
