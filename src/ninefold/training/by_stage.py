"""A chain stage by stage: on GPUs, where images are kept in bfloat16, and where PyTorch has a part in it."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ninefold.ops import backend, whole
from ninefold.ops.operands import Gradient, Operand, activated, dense
from ninefold.training import again, gates
from ninefold.training.stages import Stage, Tensors


def run(
    x: Tensor, stages: Sequence[Stage], tensors: Sequence[Tensors], residual: Tensor | None, keep: str
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """`chain.run`: the output, and each stage's batch statistics."""
    found: list[tuple[Tensor, Tensor]] = []
    last: list[Operand] = []
    flat = [tensor for stage in tensors for tensor in stage]
    out: Tensor = _Chain.apply(x, residual, tuple(stages), keep, found, last, gates.origin(x), *flat)
    if residual is None and last[0].numbers is not None and keep == "float32":
        gates.remember(out, last[0])
    return out, found


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        stages: tuple[Stage, ...],
        keep: str,
        found: list[tuple[Tensor, Tensor]],
        last: list[Operand],
        made_of: gates.Origin | None,
        *flat: Tensor | None,
    ) -> Tensor:
        image, home = dense(x), backend.passes(x)
        operand = activated(image, stages[0].ahead)
        outputs: list[Tensor | None] = []
        numbers, by_stage = [], _by_stage(flat)
        rounded = keep == "bfloat16" and image.dtype is torch.float32
        made = _made_again(image, stages, by_stage, rounded)
        for stage, tensors, later in zip(stages, by_stage, made, strict=True):
            operand = _forward(home, operand, stage, tensors, found)
            z = operand.z.to(torch.bfloat16) if rounded else operand.z
            outputs.append(None if later else z)
            numbers.append(operand.numbers)
        if residual is not None or operand.numbers is not None:
            out = home.apply(operand, None if residual is None else dense(residual))
        else:
            out = operand.z
        ctx.stages, ctx.home = stages, home
        last.append(operand)
        origin, ctx.activation = gates.kept(image, made_of)
        ctx.save_for_backward(*origin, *outputs, *numbers, *flat)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        stages, (image, about_it, gate, *saved) = ctx.stages, ctx.saved_tensors
        count = len(stages)
        image = gates.restored(image, about_it, gate, ctx.activation)
        outputs, numbers, tensors = saved[:count], saved[count : 2 * count], _by_stage(saved[2 * count :])
        needs_x, needs_residual, _, _, _, _, _, *needs = ctx.needs_input_grad
        images = again.Images(ctx.home, stages, tensors, image, outputs, numbers)
        parameters = _backward(dense(gradient), images, needs_x, needs)
        along = gradient if needs_residual else None
        return parameters[0], along, None, None, None, None, None, *parameters[1:]


def _made_again(
    image: Tensor, stages: Sequence[Stage], tensors: Sequence[Tensors], rounded: bool
) -> tuple[bool, ...]:
    # What is rounded is kept: a filter that takes differences of rounded values is off by more than they.
    if rounded or not image.is_cpu:
        return (False,) * len(stages)
    return again.chosen(stages, [weight.shape for weight, *_ in tensors])


def _forward(
    home: ModuleType,
    operand: Operand,
    stage: Stage,
    tensors: Tensors,
    found: list[tuple[Tensor, Tensor]],
) -> Operand:
    """One stage: convolve the operand; return the operand of the next, and add the statistics to `found`."""
    weight, bias, gamma, beta, running_mean, running_variance = tensors
    channels, normalisation = weight.shape[0], stage.normalisation
    batch = normalisation is not None and normalisation.batch_statistics
    numbers = None
    if normalisation is not None or stage.activation is not None:
        numbers = torch.empty((4, channels), dtype=torch.float32, device=weight.device)
    moments = numbers if batch else None
    geometry = stage.stride, stage.padding, stage.dilation
    if stage.kind == "depthwise":
        z = home.depthwise(operand, weight, bias, *geometry, moments)
    elif stage.kind == "pointwise":
        z = home.pointwise(operand, weight, bias, moments)
    else:
        z = whole.forward(home, operand, weight, bias, *geometry, stage.groups, moments)
    statistics = weight.new_empty(0), weight.new_empty(0)
    if numbers is not None:
        if batch:
            statistics = numbers[0].clone(), numbers[1].clone()
        elif normalisation is not None:
            assert running_mean is not None and running_variance is not None
            numbers[0], numbers[1] = running_mean, running_variance
        else:
            numbers[0], numbers[1] = 0, 1
        home.normalisation(numbers, gamma, beta, normalisation.eps if normalisation else 0.0)
    found.append(statistics)
    return Operand(z, numbers, stage.activation)


def _backward(
    gradient: Tensor, images: again.Images, needs_x: bool, needs: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of x and of every tensor of every stage, those that are needed."""
    home, stages, tensors = images.home, images.stages, images.tensors
    made: list[Tensor | None] = [None] * len(needs)
    after, sums = images.operand(len(stages) - 1), None
    arrived: Tensor | None = gradient
    if after.numbers is not None:
        arrived, sums = home.reduce(after, gradient)
    for index in reversed(range(len(stages))):
        stage, (weight, bias, gamma, beta, *_) = stages[index], tensors[index]
        needs_weight, needs_bias, needs_gamma, needs_beta = needs[6 * index : 6 * index + 4]
        needs_before = needs_x or any(needs[: 6 * index])
        turn = None
        if sums is not None:
            batch = stage.normalisation is not None and stage.normalisation.batch_statistics
            eps = stage.normalisation.eps if stage.normalisation else 0.0
            turn, along_gamma, along_beta = home.normalisation_backward(after, gamma, eps, sums, batch)
            made[6 * index + 2] = along_gamma.to(gamma.dtype) if gamma is not None and needs_gamma else None
            made[6 * index + 3] = along_beta.to(beta.dtype) if beta is not None and needs_beta else None
        assert arrived is not None
        dz = Gradient(after, arrived, turn)
        if bias is not None and needs_bias:
            made[6 * index + 1] = _bias(dz, sums, stage).to(bias.dtype)
        if not (needs_weight or needs_before):
            break
        needed, before = (needs_weight, needs_before), images.operand(index - 1)
        if stage.kind == "depthwise":
            geometry = stage.stride, stage.padding, stage.dilation
            got = home.depthwise_backward(dz, before, weight, *geometry, needed)
        elif stage.kind == "pointwise":
            got = home.pointwise_backward(dz, before, weight, needed)
        else:
            geometry = stage.stride, stage.padding, stage.dilation
            got = whole.backward(home, dz, before, weight, *geometry, stage.groups, needed)
        made[6 * index] = got.weight
        if not needs_before:
            break
        after, arrived, sums = before, got.input, got.sums
        del before, dz, got
    return [arrived if needs_x else None, *made]


def _bias(dz: Gradient, sums: Tensor | None, stage: Stage) -> Tensor:
    """The gradient of a convolution's bias; the batch's own mean takes every bias out again."""
    if sums is None or dz.turn is None:
        return dz.arrived.sum((0, 2, 3))
    if stage.normalisation is not None and stage.normalisation.batch_statistics:
        return dz.arrived.new_zeros(sums.shape[1])
    return (sums[0] * dz.turn[0]).float()


def _by_stage(flat: Sequence[Tensor | None]) -> list[Tensors]:
    return [tuple(flat[k : k + 6]) for k in range(0, len(flat), 6)]  # type: ignore[misc]
