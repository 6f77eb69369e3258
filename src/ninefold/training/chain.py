"""A chain of stages, each convolution → batch-norm → activation, between two images: forward and backward.

What is kept for backward is the chain's input, each convolution's raw output and four numbers per channel.
Normalised and activated images exist a band at a time in the cache, made again where they are read
(`ops/passes.py`, kernels/runtime/training*.cpp).

Forward, each stage reads one image and writes one. Backward, it reads three (the gradient that arrives, its
own raw output, the raw output before) and writes one: six passes over the convolutions' outputs in all, where
PyTorch's operators make more than twenty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ninefold.ops import backend, fallback, gradients, passes

Tensors = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Normalisation:
    """What one batch-norm does, besides its tensors; without `batch_statistics` the running ones are used."""

    eps: float
    batch_statistics: bool


@dataclass(frozen=True)
class Stage:
    """One convolution (`standard`: PyTorch's own), the batch-norm and the activation behind it."""

    kind: Literal["depthwise", "pointwise", "standard"]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]  # left, right, top, bottom
    dilation: tuple[int, int]
    groups: int
    normalisation: Normalisation | None
    activation: str | None  # the names of ninefold.ops


def run(
    x: Tensor,
    stages: Sequence[Stage],
    tensors: Sequence[Tensors],
    residual: Tensor | None = None,
    *,
    keep: str = "float32",
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Run a chain on x (batch, C, H, W); return its output, channels-last, and each stage's batch statistics.

    `tensors` are, per stage, weight, bias, gamma, beta, running mean and running variance, each but the first
    or None. The residual is added behind the last activation. The statistics are the batch's mean and biased
    variance, detached; empty tensors where the running ones were used. The caller updates those.

    Differentiable once in x, residual, weights, biases, gammas and betas; what needs no gradient costs none.
    keep="bfloat16" rounds what is kept for backward, which halves it. Where `supported` has an objection,
    PyTorch's operators do the work. Raises PyTorch's ValueError where a batch has one value per channel.
    """
    _check(x, stages, tensors, keep)
    if supported(x, stages, tensors):
        return _plain(x, stages, tensors, residual)
    found: list[tuple[Tensor, Tensor]] = []
    flat = [tensor for stage in tensors for tensor in stage]
    return _Chain.apply(x, residual, tuple(stages), keep, found, *flat), found


def supported(x: Tensor, stages: Sequence[Stage], tensors: Sequence[Tensors]) -> str:
    """Return why this chain runs in PyTorch, or an empty string where it runs in the kernels."""
    if not x.numel():
        return "an image without pixels"
    if backend.taken_apart(x):
        return "a function transform"
    every = [x, *(tensor for stage in tensors for tensor in stage if tensor is not None)]
    if any(tensor.dtype is not torch.float32 or tensor.device.type != "cpu" for tensor in every):
        return "not float32 on the CPU"
    channels, elements = x.shape[1], x.numel() // x.shape[0]
    for stage, (weight, *_) in zip(stages, tensors, strict=True):
        outputs = weight.shape[0]
        if stage.kind == "depthwise" and not (outputs == channels == stage.groups):
            return "a depth multiplier"
        if outputs < passes.FEWEST_CHANNELS or (
            channels < passes.FEWEST_CHANNELS and stage.kind != "standard"
        ):
            return "fewer channels than a vector"
        elements = max(elements, x.shape[2] * x.shape[3] * outputs)
        channels = outputs
    if elements >= 2**31:
        return "an image of 2³¹ elements"
    return "" if backend.kernels() else "the compiled kernels are not installed"


def _check(x: Tensor, stages: Sequence[Stage], tensors: Sequence[Tensors], keep: str) -> None:
    if not stages or len(stages) != len(tensors):
        raise ValueError(f"`tensors` must have one entry per stage, {len(stages)}, got {len(tensors)}")
    if keep not in ("float32", "bfloat16"):
        raise ValueError(f"`keep` must be float32 or bfloat16, got {keep}")
    height, width = x.shape[2:]
    for stage, (weight, *_) in zip(stages, tensors, strict=True):
        height, width = _output_size(stage, weight, height, width)
        normalisation = stage.normalisation
        if normalisation and normalisation.batch_statistics and x.shape[0] * height * width == 1:
            size = torch.Size((x.shape[0], weight.shape[0], height, width))
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {size}")


def _output_size(stage: Stage, weight: Tensor, height: int, width: int) -> tuple[int, int]:
    left, right, top, bottom = stage.padding
    tall, wide = weight.shape[2:]
    return (
        (height + top + bottom - stage.dilation[0] * (tall - 1) - 1) // stage.stride[0] + 1,
        (width + left + right - stage.dilation[1] * (wide - 1) - 1) // stage.stride[1] + 1,
    )


def _plain(
    x: Tensor, stages: Sequence[Stage], tensors: Sequence[Tensors], residual: Tensor | None
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The chain out of PyTorch's operators."""
    found = []
    for stage, (weight, bias, gamma, beta, mean, variance) in zip(stages, tensors, strict=True):
        x = fallback.convolve(x, weight, bias, stage.stride, stage.padding, stage.dilation, stage.groups)
        statistics = x.new_empty(0), x.new_empty(0)
        if stage.normalisation:
            batch = stage.normalisation.batch_statistics
            if batch:
                spread, centre = torch.var_mean(x.detach(), (0, 2, 3), correction=0)
                statistics = centre, spread
            given = (None, None) if batch else (mean, variance)
            x = F.batch_norm(x, *given, gamma, beta, batch, 0.0, stage.normalisation.eps)
        x = fallback.ACTIVATIONS[stage.activation](x)
        found.append(statistics)
    x = x if residual is None else x + residual
    return x.contiguous(memory_format=torch.channels_last), found


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        stages: tuple[Stage, ...],
        keep: str,
        found: list[tuple[Tensor, Tensor]],
        *flat: Tensor | None,
    ) -> Tensor:
        image = _dense(x)
        operand = passes.Operand(image)
        outputs, numbers = [], []
        for stage, tensors in zip(stages, _by_stage(flat), strict=True):
            operand = _forward(operand, stage, tensors, found)
            outputs.append(operand.z)
            numbers.append(operand.numbers)
        if residual is not None or operand.numbers is not None:
            out = passes.apply(operand, None if residual is None else _dense(residual))
        else:
            out = operand.z
        ctx.stages = stages
        if keep == "bfloat16":
            outputs = [z.to(torch.bfloat16) for z in outputs]
        ctx.save_for_backward(image, *outputs, *numbers, *flat)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        stages, saved = ctx.stages, ctx.saved_tensors
        count = len(stages)
        image, outputs, numbers = saved[0], saved[1 : count + 1], saved[count + 1 : 2 * count + 1]
        needs_x, needs_residual, _, _, _, *needs = ctx.needs_input_grad
        parameters = _backward(
            _dense(gradient),
            stages,
            _by_stage(saved[2 * count + 1 :]),
            image,
            outputs,
            numbers,
            needs_x,
            needs,
        )
        return parameters[0], gradient if needs_residual else None, None, None, None, *parameters[1:]


def _forward(
    operand: passes.Operand, stage: Stage, tensors: Tensors, found: list[tuple[Tensor, Tensor]]
) -> passes.Operand:
    """One stage: convolve the operand; return the operand of the next, and add the statistics to `found`."""
    weight, bias, gamma, beta, running_mean, running_variance = tensors
    channels, normalisation = weight.shape[0], stage.normalisation
    batch = normalisation is not None and normalisation.batch_statistics
    numbers = None
    if normalisation is not None or stage.activation is not None:
        numbers = torch.empty((4, channels))
    moments = numbers if batch else None
    geometry = stage.stride, stage.padding, stage.dilation
    if stage.kind == "depthwise":
        z = passes.depthwise(operand, weight, bias, *geometry, moments)
    elif stage.kind == "pointwise":
        z = passes.pointwise(operand, weight, bias, moments)
    else:
        z = _dense(fallback.convolve(_made(operand), weight, bias, *geometry, stage.groups))
        if moments is not None:
            passes.moments(z, moments)
    statistics = torch.empty(0), torch.empty(0)
    if numbers is not None:
        if batch:
            statistics = numbers[0].clone(), numbers[1].clone()
        elif normalisation is not None:
            assert running_mean is not None and running_variance is not None
            numbers[0], numbers[1] = running_mean, running_variance
        else:
            numbers[0], numbers[1] = 0, 1
        passes.normalisation(numbers, gamma, beta, normalisation.eps if normalisation else 0.0)
    found.append(statistics)
    return passes.Operand(z, numbers, stage.activation)


def _backward(
    gradient: Tensor,
    stages: tuple[Stage, ...],
    tensors: list[Tensors],
    image: Tensor,
    outputs: Sequence[Tensor],
    numbers: Sequence[Tensor | None],
    needs_x: bool,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of x and of every tensor of every stage, those that are needed."""

    def operand(index: int) -> passes.Operand:
        if index < 0:
            return passes.Operand(image)
        return passes.Operand(outputs[index].float(), numbers[index], stages[index].activation)

    made: list[Tensor | None] = [None] * len(needs)
    after, sums = operand(len(stages) - 1), None
    arrived: Tensor | None = gradient
    if after.numbers is not None:
        arrived, sums = passes.reduce(after, gradient)
    for index in reversed(range(len(stages))):
        stage, (weight, _, gamma, *_) = stages[index], tensors[index]
        needs_weight, needs_bias, needs_gamma, needs_beta = needs[6 * index : 6 * index + 4]
        before = operand(index - 1)
        needs_before = needs_x or any(needs[: 6 * index])
        turn = None
        if sums is not None:
            batch = stage.normalisation is not None and stage.normalisation.batch_statistics
            eps = stage.normalisation.eps if stage.normalisation else 0.0
            turn, along_gamma, along_beta = passes.normalisation_backward(after, gamma, eps, sums, batch)
            made[6 * index + 2] = along_gamma if needs_gamma else None
            made[6 * index + 3] = along_beta if needs_beta else None
        assert arrived is not None
        dz = passes.Gradient(after, arrived, turn)
        if needs_bias:
            made[6 * index + 1] = _bias(dz, sums, stage)
        if not (needs_weight or needs_before):
            break
        needed = needs_weight, needs_before
        if stage.kind == "depthwise":
            geometry = stage.stride, stage.padding, stage.dilation
            got = passes.depthwise_backward(dz, before, weight, *geometry, needed)
        elif stage.kind == "pointwise":
            got = passes.pointwise_backward(dz, before, weight, needed)
        else:
            got = _standard(dz, before, weight, stage, needed)
        made[6 * index] = got.weight
        if not needs_before:
            break
        after, arrived, sums = before, got.input, got.sums
        del before, dz, got
    return [arrived if needs_x else None, *made]


def _bias(dz: passes.Gradient, sums: Tensor | None, stage: Stage) -> Tensor:
    """The gradient of a convolution's bias; the batch's own mean takes every bias out again."""
    if sums is None or dz.turn is None:
        return dz.arrived.sum((0, 2, 3))
    if stage.normalisation is not None and stage.normalisation.batch_statistics:
        return torch.zeros(sums.shape[1])
    return (sums[0] * dz.turn[0]).float()


def _standard(
    dz: passes.Gradient, before: passes.Operand, weight: Tensor, stage: Stage, needed: tuple[bool, bool]
) -> passes.Gradients:
    """A convolution that PyTorch differentiates, between images made whole."""
    arrived = dz.arrived if dz.turn is None else passes.turn(dz)
    geometry = stage.stride, stage.padding, stage.dilation, stage.groups
    needs_weight, needs_before = needed
    along, weights, _ = gradients.convolution(
        arrived, _made(before), weight, None, *geometry, (needs_before, needs_weight, False)
    )
    sums = None
    if along is not None:
        along = _dense(along)
        if before.numbers is not None:
            along, sums = passes.reduce(before, along)
    return passes.Gradients(weights, along, sums)


def _made(operand: passes.Operand) -> Tensor:
    return operand.z if operand.numbers is None else passes.apply(operand)


def _dense(x: Tensor) -> Tensor:
    return x.detach().contiguous(memory_format=torch.channels_last)


def _by_stage(flat: Sequence[Tensor | None]) -> list[Tensors]:
    return [tuple(flat[k : k + 6]) for k in range(0, len(flat), 6)]  # type: ignore[misc]
