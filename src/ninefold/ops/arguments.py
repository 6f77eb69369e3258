"""What the public functions check before any work, and the numbers that they pass on.

The rules and the words about sizes are `ninefold.shape`'s; here are those about tensors. Checked sizes are
remembered, because checking costs more than a small convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import torch

from ninefold import shape

Geometry = tuple[shape.Pair, shape.Sides, shape.Pair, int]
Size = tuple[int, ...]
T = TypeVar("T")
_is_compiling = torch.compiler.is_compiling


def check_tensors(x: Any, **others: Any) -> None:
    """Raise TypeError unless all are tensors of one dtype, on one device; None is a tensor left out.

    Autocast casts them all, so under it dtypes may differ.
    """
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"`x` must be a torch.Tensor, got {type(x).__name__}")
    device, dtype = x.device, x.dtype
    for name, tensor in others.items():
        if tensor is None and optional(name):
            continue
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"`{name}` must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.device != device:
            raise TypeError(f"`{name}` must be on the device of `x` ({device}), got {tensor.device}")
        if tensor.dtype != dtype and not torch.is_autocast_enabled(device.type):
            raise TypeError(f"`{name}` must have the dtype of `x` ({dtype}), got {tensor.dtype}")


def optional(name: str) -> bool:
    """Whether an operator does without the tensor of this name."""
    return name.endswith("bias") or name == "residual"


def remembered(check: Callable[..., T], *sizes: Any) -> T:
    """Return check(*sizes), looked up if these sizes were found good before."""
    if _is_compiling():
        return check(*sizes)
    for size in sizes:
        if type(size) is tuple and not _whole(size):
            return check(*sizes)
    try:
        seen: T = _seen(check, *sizes)
        return seen
    except TypeError:
        pass  # a symbolic size cannot be looked up; a real TypeError is raised again below
    return check(*sizes)


def standard(
    x: Size,
    weight: Size,
    bias: Size | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    activation: Any,
) -> Geometry:
    """Check a standard convolution's sizes; return stride, padding, dilation and groups, resolved."""
    shape.check_activation(activation)
    conv = shape.ConvShape.standard(
        x, weight, stride=stride, padding=padding, dilation=dilation, groups=groups, bias_shape=bias
    )
    shape.check_computable(conv)
    return conv.stride, conv.padding, conv.dilation, conv.groups


def depthwise(
    x: Size, weight: Size, bias: Size | None, stride: Any, padding: Any, dilation: Any, activation: Any
) -> Geometry:
    """Check a depthwise convolution's sizes; return stride, padding, dilation and groups, resolved."""
    shape.check_activation(activation)
    conv = shape.ConvShape.depthwise(
        x, weight, stride=stride, padding=padding, dilation=dilation, bias_shape=bias
    )
    shape.check_computable(conv)
    return conv.stride, conv.padding, conv.dilation, conv.groups


def pointwise(x: Size, weight: Size, bias: Size | None, activation: Any, residual: Size | None) -> None:
    """Check a pointwise convolution's sizes."""
    shape.check_activation(activation)
    conv = shape.ConvShape.pointwise(x, weight, bias_shape=bias)
    if residual is not None:
        shape.check_residual(residual, conv.output_shape)


def separable(
    x: Size,
    depthwise_weight: Size,
    pointwise_weight: Size,
    depthwise_bias: Size | None,
    pointwise_bias: Size | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    depthwise_activation: Any,
    activation: Any,
    residual: Size | None,
) -> Geometry:
    """Check a separable convolution's sizes; return the depthwise stage's numbers, resolved."""
    shape.check_activation(depthwise_activation, argument="depthwise_activation")
    shape.check_activation(activation)
    conv, _ = shape.separable(
        x,
        depthwise_weight,
        pointwise_weight,
        stride=stride,
        padding=padding,
        dilation=dilation,
        depthwise_bias_shape=depthwise_bias,
        pointwise_bias_shape=pointwise_bias,
        residual_shape=residual,
    )
    shape.check_computable(conv)
    return conv.stride, conv.padding, conv.dilation, conv.groups


@lru_cache(4096, typed=True)
def _seen(check: Callable[..., Any], *sizes: Any) -> Any:
    return check(*sizes)


def _whole(numbers: tuple[Any, ...]) -> bool:
    # (1.0, 1) would be found under (1, 1); the cache tells types apart only outside of tuples.
    return set(map(type, numbers)) == {int}
