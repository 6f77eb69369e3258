"""Gradients of the operators: inputs are kept, what lies between is computed again.

A convolution's are made by the kernels (`library.convolution_backward`), an activation's slope too
(`activation_backward`), in whose calls denormal numbers are zero: PyTorch's SiLU was nine times as slow on
them. Where gradients of gradients may be wanted, everything is made of differentiable PyTorch operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ninefold.ops import backend, fallback

aten = torch.ops.aten
Gradients = tuple[torch.Tensor | None, ...]
Geometry = tuple[Sequence[int], Sequence[int], Sequence[int], int]  # stride, padding, dilation, groups


def _silu(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return aten.silu_backward(grad, x)
    sigmoid = torch.sigmoid(x)  # PyTorch has no gradient of `silu_backward`
    return grad * sigmoid * (1 + x * (1 - sigmoid))


# (gradient of the activation's output, the activation's input) -> gradient of its input
ACTIVATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "relu": lambda grad, x: aten.threshold_backward(grad, x, 0),
    "relu6": lambda grad, x: aten.hardtanh_backward(grad, x, 0, 6),
    "silu": _silu,
    "hardswish": lambda grad, x: aten.hardswish_backward(grad, x),
    "gelu": lambda grad, x: aten.gelu_backward(grad, x),
    "gelu_tanh": lambda grad, x: aten.gelu_backward(grad, x, approximate="tanh"),
    "hardsigmoid": lambda grad, x: aten.hardsigmoid_backward(grad, x),
    "sigmoid": lambda grad, x: aten.sigmoid_backward(grad, torch.sigmoid(x)),
}


def save_conv2d(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    """Keep what `conv2d` needs."""
    x, weight, bias, ctx.stride, ctx.padding, ctx.dilation, ctx.groups, ctx.activation = inputs
    ctx.save_for_backward(x, weight, bias)


def conv2d(ctx: Any, grad: torch.Tensor) -> Gradients:
    """Gradients of `conv2d`, one for each of its arguments."""
    x, weight, bias = ctx.saved_tensors
    geometry = (ctx.stride, ctx.padding, ctx.dilation, ctx.groups)
    grads = _stage(grad, x, weight, bias, *geometry, ctx.activation, ctx.needs_input_grad[:3])
    return *grads, None, None, None, None, None


def save_depthwise_conv2d(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    """Keep what `depthwise_conv2d` needs."""
    x, weight, bias, ctx.stride, ctx.padding, ctx.dilation, ctx.activation = inputs
    ctx.save_for_backward(x, weight, bias)


def depthwise_conv2d(ctx: Any, grad: torch.Tensor) -> Gradients:
    """Gradients of `depthwise_conv2d`, one for each of its arguments."""
    x, weight, bias = ctx.saved_tensors
    geometry = (ctx.stride, ctx.padding, ctx.dilation, x.shape[1])
    grads = _stage(grad, x, weight, bias, *geometry, ctx.activation, ctx.needs_input_grad[:3])
    return *grads, None, None, None, None


def save_pointwise_conv2d(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    """Keep what `pointwise_conv2d` needs; of a residual only that there was one."""
    x, weight, bias, ctx.activation, _ = inputs
    ctx.save_for_backward(x, weight, bias)


def pointwise_conv2d(ctx: Any, grad: torch.Tensor) -> Gradients:
    """Gradients of `pointwise_conv2d`, one for each of its arguments; the residual's is `grad` itself."""
    x, weight, bias = ctx.saved_tensors
    grads = _stage(grad, x, weight, bias, *_POINTWISE, ctx.activation, ctx.needs_input_grad[:3])
    return *grads, None, grad if ctx.needs_input_grad[4] else None


def save_separable_conv2d(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    """Keep what `separable_conv2d` needs: the tensors but the residual, no value between the stages."""
    ctx.save_for_backward(*inputs[:5])
    ctx.stride, ctx.padding, ctx.dilation, ctx.depthwise_activation, ctx.activation, _ = inputs[5:]


def separable_conv2d(ctx: Any, grad: torch.Tensor) -> Gradients:
    """Gradients of `separable_conv2d`, one for each of its arguments."""
    x, depthwise_weight, pointwise_weight, depthwise_bias, pointwise_bias = ctx.saved_tensors
    needs_x, needs_dw, needs_pw, needs_db, needs_pb = ctx.needs_input_grad[:5]
    needed = [bool(need) for need in (needs_x, needs_dw, needs_pw, needs_db, needs_pb)]
    residual = grad if ctx.needs_input_grad[10] else None
    geometry = ctx.stride, ctx.padding, ctx.dilation
    if backend.separable_on_gpu(grad, x, depthwise_weight, pointwise_weight, *geometry) and any(needed):
        made = torch.ops.ninefold.separable_backward(
            *(grad, *ctx.saved_tensors, *geometry, ctx.depthwise_activation, ctx.activation, needed)
        )
        along = (gradient if need else None for gradient, need in zip(made, needed, strict=True))
        return *along, None, None, None, None, None, residual
    needs_first = needs_x or needs_dw or needs_db
    first = (ctx.stride, ctx.padding, ctx.dilation, x.shape[1])

    before, filtered = _between(x, depthwise_weight, depthwise_bias, first, ctx.depthwise_activation)
    grad_filtered, grad_pw, grad_pb = _stage(
        grad,
        filtered,
        pointwise_weight,
        pointwise_bias,
        *_POINTWISE,
        ctx.activation,
        (needs_first, needs_pw, needs_pb),
    )
    grad_x = grad_dw = grad_db = None
    if grad_filtered is not None:
        if ctx.depthwise_activation is not None:
            grad_filtered = _sloped(grad_filtered, before, ctx.depthwise_activation)
        grad_x, grad_dw, grad_db = _convolution(
            grad_filtered, x, depthwise_weight, depthwise_bias, *first, (needs_x, needs_dw, needs_db)
        )
    return grad_x, grad_dw, grad_pw, grad_db, grad_pb, None, None, None, None, None, residual


_POINTWISE = ((1, 1), (0, 0, 0, 0), (1, 1), 1)


def _stage(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str | None,
    needed: Sequence[bool],
) -> Gradients:
    """Gradients of x, weight and bias through an activation and the convolution before it."""
    if not any(needed):
        return None, None, None
    if activation is not None:
        before = _convolved(x, weight, bias, (stride, padding, dilation, groups), None)
        grad = _sloped(grad, before, activation)
    return _convolution(grad, x, weight, bias, stride, padding, dilation, groups, needed)


def _between(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    geometry: Geometry,
    activation: str | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What lies before and behind the activation between two stages."""
    if torch.is_grad_enabled() or activation is None:
        before = _convolved(x, weight, bias, geometry, None)
        return before, fallback.ACTIVATIONS[activation](before)
    filtered = _convolved(x, weight, bias, geometry, activation)
    # A clip's gradient passes where its result is inside, as where its argument is.
    clipped = activation in ("relu", "relu6")
    return filtered if clipped else _convolved(x, weight, bias, geometry, None), filtered


def _convolved(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    geometry: Geometry,
    activation: str | None,
) -> torch.Tensor:
    """A convolution made again: by the operator that made it, unless it must be differentiable itself."""
    if torch.is_grad_enabled():
        return fallback.ACTIVATIONS[activation](fallback.convolve(x, weight, bias, *geometry))
    stride, padding, dilation, groups = geometry
    operators = torch.ops.ninefold
    made: torch.Tensor
    if geometry == _POINTWISE:
        made = operators.pointwise_conv2d(x, weight, bias, activation, None)
    elif groups == x.shape[1]:
        made = operators.depthwise_conv2d(x, weight, bias, stride, padding, dilation, activation)
    else:
        made = operators.conv2d(x, weight, bias, *geometry, activation)
    return made


def _sloped(grad: torch.Tensor, before: torch.Tensor, activation: str) -> torch.Tensor:
    if torch.is_grad_enabled():
        return ACTIVATIONS[activation](grad, before)
    sloped: torch.Tensor = torch.ops.ninefold.activation_backward(grad, before, activation)
    return sloped


def _convolution(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needed: Sequence[bool],
) -> Gradients:
    geometry = stride, padding, dilation, groups
    if torch.is_grad_enabled():
        return convolution(grad, x, weight, bias, *geometry, needed)
    needs_x, needs_weight, needs_bias = (bool(need) for need in needed)
    grad_x = grad_weight = None
    if needs_x or needs_weight:
        grad_x, grad_weight = torch.ops.ninefold.convolution_backward(
            grad, x, weight, *geometry, needs_x, needs_weight
        )
    return (
        grad_x if needs_x else None,
        grad_weight if needs_weight else None,
        grad.sum((0, 2, 3)) if needs_bias else None,
    )


def convolution(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needed: Sequence[bool],
) -> Gradients:
    """Gradients of x, weight and bias through one convolution, those that are needed, by PyTorch."""
    left, right, top, bottom = padding
    if tuple(weight.shape[2:]) == (1, 1) and tuple(stride) != (1, 1):
        return _strided_points(grad, x, weight, bias, stride, padding, groups, needed)
    symmetric = left == right and top == bottom
    if symmetric:
        around = [top, left]
    else:
        around = [0, 0]
        x = F.pad(x, [left, right, top, bottom])
    bias_sizes = None if bias is None else [weight.shape[0]]
    mask = [bool(need) for need in needed]
    grad_x, grad_weight, grad_bias = aten.convolution_backward(
        grad, x, weight, bias_sizes, stride, around, dilation, False, [0, 0], groups, mask
    )
    if grad_x is not None and not symmetric:
        grad_x = F.pad(grad_x, [-left, -right, -top, -bottom])
    return (
        grad_x if needed[0] else None,
        grad_weight if needed[1] else None,
        grad_bias if needed[2] else None,
    )


def _strided_points(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    groups: int,
    needed: Sequence[bool],
) -> Gradients:
    """Gradients of a 1×1 convolution that leaves pixels out: those of the pixels it reads, at stride 1.

    PyTorch 2.13's own weight gradient of such a one writes past its memory at more threads than images.
    """
    left, right, top, bottom = padding
    padded = F.pad(x, [left, right, top, bottom])
    rows, columns = (slice(0, (n - 1) * s + 1, s) for n, s in zip(grad.shape[2:], stride, strict=True))
    read = padded[:, :, rows, columns]
    grad_read, grad_weight, grad_bias = convolution(
        grad, read, weight, bias, (1, 1), (0, 0, 0, 0), (1, 1), groups, needed
    )
    grad_x = None
    if grad_read is not None:
        spread = torch.zeros_like(padded)
        spread[:, :, rows, columns] = grad_read
        grad_x = F.pad(spread, [-left, -right, -top, -bottom])
    return grad_x, grad_weight, grad_bias
