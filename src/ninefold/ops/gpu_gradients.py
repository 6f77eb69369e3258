"""The operators' gradients in Triton's kernels: the passes of training, without batch-norm between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ninefold.ops import backend, gpu_passes, gradients
from ninefold.ops.operands import Gradient, Gradients, Operand, dense

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    groups: int,
    needed: tuple[bool, bool, bool],
) -> gradients.Gradients:
    """`gradients.convolution`, without a bias; in the kernels where they can, else in PyTorch."""
    outputs, inputs, tall, wide = weight.shape
    flat = (tall, wide, *stride, *padding, groups) == (1, 1, 1, 1, 0, 0, 0, 0, 1)
    deep = groups == outputs == x.shape[1] and inputs == 1
    if not flat and not (deep and not backend.unrolled_too_far((tall, wide), stride, dilation)):
        return gradients.convolution(grad, x, weight, bias, stride, padding, dilation, groups, needed)
    read, dz, needs = Operand(dense(x)), _untouched(dense(grad)), (needed[1], needed[0])
    if flat:
        made = gpu_passes.pointwise_backward(dz, read, weight, needs)
    else:
        given: Any = (tuple(stride), tuple(padding), tuple(dilation), needs)
        made = gpu_passes.depthwise_backward(dz, read, weight, *given)
    return made.input, made.weight, None


def separable_backward(
    grad: Tensor,
    x: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_bias: Tensor | None,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    depthwise_activation: str | None,
    activation: str | None,
    needed: Sequence[bool],
) -> gradients.Gradients:
    """Gradients of a separable convolution's x, weights and biases, in that order, those that are needed.

    What lay between the stages is filtered once more, and activated as it is read.
    """
    needs_x, needs_first, needs_second, needs_first_bias, needs_second_bias = needed
    geometry: Any = (tuple(stride), tuple(padding), tuple(dilation))
    read, given = Operand(dense(x)), (*geometry, None)
    middle = _activated(
        gpu_passes.depthwise(read, depthwise_weight, depthwise_bias, *given), depthwise_activation
    )
    arrived, second_bias = dense(grad), None
    if activation is not None:
        out = _activated(gpu_passes.pointwise(middle, pointwise_weight, pointwise_bias, None), activation)
        arrived, sums = gpu_passes.reduce(out, arrived)
        second_bias = sums[0]
    elif needs_second_bias:
        second_bias = arrived.sum((0, 2, 3))
    needs = needs_second, needs_x or needs_first or needs_first_bias
    second = gpu_passes.pointwise_backward(_untouched(arrived), middle, pointwise_weight, needs)
    first, first_bias = Gradients(None, None, None), None
    if second.input is not None:
        if needs_first_bias:
            first_bias = second.input.sum((0, 2, 3)) if second.sums is None else second.sums[0]
        if needs_x or needs_first:
            given = (*geometry, (needs_first, needs_x))
            first = gpu_passes.depthwise_backward(_untouched(second.input), read, depthwise_weight, *given)
    return (
        first.input,
        first.weight,
        second.weight,
        first_bias.to(x.dtype) if needs_first_bias and first_bias is not None else None,
        second_bias.to(x.dtype) if needs_second_bias and second_bias is not None else None,
    )


def _untouched(gradient: Tensor) -> Gradient:
    """A gradient that is that of z as it arrives."""
    return Gradient(Operand(gradient), gradient)


def _activated(z: Tensor, activation: str | None) -> Operand:
    """An image that is activated when it is read, and not normalised."""
    if activation is None:
        return Operand(z)
    numbers = z.new_zeros((4, z.shape[1]), dtype=torch.float32)
    numbers[1:3] = 1
    return Operand(z, numbers, activation)
