"""A chain of stages, each convolution → batch-norm → activation, between two images: forward and backward.

What is kept for backward is the chain's input, each convolution's raw output and four numbers per channel;
not a depthwise output that is cheaply made again (again.py). Normalised and activated images exist a band
at a time in the cache, made again where they are read (`ops/passes.py`, kernels/runtime/training*.cpp).

On a CPU a chain is one call into the extension each way (at_once.py), wherever that has all a chain needs;
elsewhere each stage is one (by_stage.py).

Forward, each stage reads one image and writes one. Backward, it reads three (the gradient that arrives, its
own raw output, the raw output before) and writes one: six passes over the convolutions' outputs in all, where
PyTorch's operators make more than twenty. On a GPU the weights' gradients are kernels of their own and read
those three images once more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ninefold.ops import backend, fallback, passes
from ninefold.training import at_once, by_stage, folded
from ninefold.training.stages import Normalisation, Stage, Tensors, output_size

__all__ = ["Normalisation", "Stage", "Tensors", "run", "supported"]


def run(
    x: Tensor,
    stages: Sequence[Stage],
    tensors: Sequence[Tensors],
    residual: Tensor | None = None,
    *,
    keep: str = "float32",
    momenta: Sequence[float] | None = None,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Run a chain on x (batch, C, H, W); return its output, channels-last, and each stage's batch statistics.

    `tensors` are, per stage, weight, bias, gamma, beta, running mean and running variance, each but the first
    or None. The residual is added behind the last activation. The statistics are the batch's mean and biased
    variance, detached; empty tensors where the running ones were used. With `momenta` none are returned: the
    running ones are moved towards them, as `F.batch_norm` does.

    Differentiable once in x, residual, weights, biases, gammas and betas; what needs no gradient costs none.
    keep="bfloat16" rounds what is kept for backward, which halves it. Where `supported` has an objection,
    PyTorch's operators do the work. Raises PyTorch's ValueError where a batch has one value per channel.
    """
    _check(x, stages, tensors, keep)
    if supported(x, stages, tensors):
        out, found = _plain(x, stages, tensors, residual)
    elif folded.wanted(x, stages, tensors, residual):
        out = folded.run(x, stages, tensors, residual)
        found = [(x.new_empty(0), x.new_empty(0)) for _ in stages]
    elif keep == "float32" and at_once.possible(x, stages, tensors):
        out, numbers = at_once.run(x, stages, tensors, residual, momenta)
        return out, _statistics(numbers, stages, tensors) if momenta is None else []
    else:
        out, found = by_stage.run(x, stages, tensors, residual, keep)
    if momenta is None:
        return out, found
    for statistics, values, own, momentum in zip(
        found, values_per_channel(x, stages, tensors), tensors, momenta, strict=True
    ):
        _move(own[4], own[5], *statistics, values, momentum)
    return out, []


def values_per_channel(x: Tensor, stages: Sequence[Stage], tensors: Sequence[Tensors]) -> list[int]:
    """Of each convolution's output: batch × height × width."""
    batch, _, height, width = x.shape
    counts = []
    for stage, (weight, *_) in zip(stages, tensors, strict=True):
        height, width = output_size(stage, weight, height, width)
        counts.append(batch * height * width)
    return counts


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
    for stage, (weight, *_, mean, variance) in zip(stages, tensors, strict=True):
        height, width = output_size(stage, weight, height, width)
        normalisation = stage.normalisation
        if normalisation and not normalisation.batch_statistics and (mean is None or variance is None):
            raise ValueError(
                "`tensors` must have running statistics where the batch's are not used, got None"
            )
        if normalisation and normalisation.batch_statistics and x.shape[0] * height * width == 1:
            size = torch.Size((x.shape[0], weight.shape[0], height, width))
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {size}")


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


def _statistics(
    numbers: Tensor, stages: Sequence[Stage], tensors: Sequence[Tensors]
) -> list[tuple[Tensor, Tensor]]:
    """The batch's mean and variance of each stage, out of the numbers of all."""
    found, first = [], 0
    for stage, (weight, *_) in zip(stages, tensors, strict=True):
        channels = weight.shape[0]
        batch = stage.normalisation is not None and stage.normalisation.batch_statistics
        count = channels if batch else 0
        mean, variance = numbers[first : first + 2 * channels].view(2, channels)
        found.append((mean[:count].clone(), variance[:count].clone()))
        first += 4 * channels
    return found


def _move(
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    count: int,
    momentum: float,
) -> None:
    """Move the running statistics towards the batch's, as `F.batch_norm` does: the variance is unbiased.

    Through `data`, because `F.batch_norm` leaves the version counters alone.
    """
    if running_mean is None or running_variance is None or not mean.numel():
        return
    running_mean.data.mul_(1 - momentum).add_(mean, alpha=momentum)
    running_variance.data.mul_(1 - momentum).add_(variance, alpha=momentum * count / (count - 1))
