"""A chain of stages, each convolution → batch-norm → activation, between two images: forward and backward.

What is kept for backward is the chain's input, each convolution's raw output and four numbers per channel;
not a depthwise output that is cheaply made again (again.py).
Normalised and activated images exist a band at a time in the cache, made again where they are read
(`ops/passes.py`, kernels/runtime/training*.cpp).

Forward, each stage reads one image and writes one. Backward, it reads three (the gradient that arrives, its
own raw output, the raw output before) and writes one: six passes over the convolutions' outputs in all, where
PyTorch's operators make more than twenty. On a GPU the weights' gradients are kernels of their own and read
those three images once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ninefold.ops import backend, fallback, passes, whole
from ninefold.ops.operands import Gradient, Operand, activated, dense
from ninefold.training import again, folded, gates
from ninefold.training.stages import Normalisation, Stage, Tensors

__all__ = ["Normalisation", "Stage", "Tensors", "run", "supported"]


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
    if folded.wanted(x, stages, tensors, residual):
        nothing = [(x.new_empty(0), x.new_empty(0)) for _ in stages]
        return folded.run(x, stages, tensors, residual), nothing
    found: list[tuple[Tensor, Tensor]] = []
    last: list[Operand] = []
    flat = [tensor for stage in tensors for tensor in stage]
    made_of = gates.origin(x)
    out = _Chain.apply(x, residual, tuple(stages), keep, found, last, made_of, *flat)
    if residual is None and last[0].numbers is not None and keep == "float32":
        gates.remember(out, last[0])
    return out, found


def supported(x: Tensor, stages: Sequence[Stage], tensors: Sequence[Tensors]) -> str:
    """Return why this chain runs in PyTorch, or an empty string where it runs in the kernels."""
    if not x.numel():
        return "an image without pixels"
    if backend.taken_apart(x):
        return "a function transform"
    gpu = backend.on_gpu(x)
    if gpu and stages[0].ahead:
        return "an activation ahead"
    if gpu and backend.triton_kernels() is None:
        return "Triton is not installed"
    reason = _mixed(x, tensors) if gpu else _elsewhere(x, tensors)
    if reason:
        return reason
    channels, elements = x.shape[1], x.numel() // x.shape[0]
    for stage, (weight, *_) in zip(stages, tensors, strict=True):
        outputs = weight.shape[0]
        if stage.kind == "depthwise" and not (outputs == channels == stage.groups):
            return "a depth multiplier"
        fewest = 1 if gpu else passes.FEWEST_CHANNELS
        if outputs < fewest or (channels < fewest and stage.kind != "standard"):
            return "fewer channels than a vector"
        if gpu and stage.kind == "depthwise":
            reason = backend.unrolled_too_far(weight.shape[2:], stage.stride, stage.dilation)
            if reason:
                return reason
        elements = max(elements, x.shape[2] * x.shape[3] * outputs)
        channels = outputs
    if elements >= 2**31:
        return "an image of 2³¹ elements"
    return "" if gpu or backend.kernels() else "the compiled kernels are not installed"


def _elsewhere(x: Tensor, tensors: Sequence[Tensors]) -> str:
    every = [x, *(tensor for stage in tensors for tensor in stage if tensor is not None)]
    if any(tensor.dtype is not torch.float32 or tensor.device.type != "cpu" for tensor in every):
        return "not float32 on the CPU"
    return ""


def _mixed(x: Tensor, tensors: Sequence[Tensors]) -> str:
    """Why tensors are none that the GPU's kernels take: batch-norm's may have another dtype than images."""
    images = [x, *(tensor for stage in tensors for tensor in stage[:2] if tensor is not None)]
    norms = [tensor for stage in tensors for tensor in stage[2:] if tensor is not None]
    if x.dtype not in backend.GPU_DTYPES or any(tensor.dtype is not x.dtype for tensor in images):
        return "an image and a weight of different dtypes, or of one that has no kernels"
    if any(tensor.dtype not in backend.GPU_DTYPES for tensor in norms):
        return "a batch-norm of a dtype that has no kernels"
    if any(tensor.device != x.device for tensor in (*images, *norms)):
        return "tensors on several devices"
    return ""


def _check(x: Tensor, stages: Sequence[Stage], tensors: Sequence[Tensors], keep: str) -> None:
    if not stages or len(stages) != len(tensors):
        raise ValueError(f"`tensors` must have one entry per stage, {len(stages)}, got {len(tensors)}")
    if any(stage.ahead for stage in stages[1:]) or (stages[0].ahead and stages[0].kind == "standard"):
        raise ValueError("`stages` must have none with an activation ahead but a first one that has kernels")
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
    x = fallback.ACTIVATIONS[stages[0].ahead](x)
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
        last: list[Operand],
        made_of: gates.Origin | None,
        *flat: Tensor | None,
    ) -> Tensor:
        image, home = dense(x), backend.passes(x)
        operand = activated(image, stages[0].ahead)
        outputs: list[Tensor | None] = []
        numbers, by_stage = [], _by_stage(flat)
        # What is rounded is kept: a filter that takes differences of rounded values is off by more than they.
        rounded = keep == "bfloat16" and image.dtype is torch.float32
        made = [False] * len(stages) if rounded else again.chosen(image, stages, by_stage)
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
        # An image that a gate was multiplied into is made again: see gates.py.
        ctx.activation = None
        origin: tuple[Tensor | None, ...] = (image, None, None)
        if made_of is not None and made_of.gate is not None:
            ctx.activation = made_of.operand.activation
            origin = made_of.operand.z, made_of.operand.numbers, made_of.gate
        ctx.save_for_backward(*origin, *outputs, *numbers, *flat)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        stages, (image, about_it, gate, *saved) = ctx.stages, ctx.saved_tensors
        count = len(stages)
        if gate is not None:
            image = gates.Origin(Operand(image, about_it, ctx.activation), gate, 0).made()
        outputs, numbers, tensors = saved[:count], saved[count : 2 * count], _by_stage(saved[2 * count :])
        needs_x, needs_residual, _, _, _, _, _, *needs = ctx.needs_input_grad
        images = again.Images(ctx.home, stages, tensors, image, outputs, numbers)
        parameters = _backward(dense(gradient), images, needs_x, needs)
        along = gradient if needs_residual else None
        return parameters[0], along, None, None, None, None, None, *parameters[1:]


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
