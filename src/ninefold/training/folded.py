"""A chain on a GPU that nobody wants gradients of: batch-norm's running statistics folded into the weights.

Nothing is kept, and a depthwise stage with the pointwise one behind it may be one kernel; the planner of the
operators decides that (`ops/gpu.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ninefold.ops import backend, fallback
from ninefold.training.stages import Stage, Tensors

Folded = tuple[Tensor, Tensor | None]


def wanted(x: Tensor, stages: Sequence[Stage], tensors: Sequence[Tensors], residual: Tensor | None) -> bool:
    """Whether a chain's result alone is wanted, and its statistics are known beforehand."""
    if any(stage.normalisation and stage.normalisation.batch_statistics for stage in stages):
        return False
    every = [x, residual, *(tensor for stage in tensors for tensor in stage)]
    needed = any(tensor is not None and tensor.requires_grad for tensor in every)
    return backend.on_gpu(x) and not (torch.is_grad_enabled() and needed)


def run(x: Tensor, stages: Sequence[Stage], tensors: Sequence[Tensors], residual: Tensor | None) -> Tensor:
    """The chain's result, channels-last; it has no history."""
    kernels = backend.triton_kernels()
    assert kernels is not None
    with torch.no_grad():
        weights = [fold(stage, own) for stage, own in zip(stages, tensors, strict=True)]
        index = 0
        while index < len(stages):
            stage, (weight, bias) = stages[index], weights[index]
            geometry = stage.stride, stage.padding, stage.dilation
            following = stages[index + 1] if index + 1 < len(stages) else None
            if stage.kind == "depthwise" and following is not None and following.kind == "pointwise":
                last, last_bias = weights[index + 1]
                given = x, weight, last, bias, last_bias, *geometry
                added = residual if index + 2 == len(stages) else None
                x = kernels.separable_conv2d(*given, stage.activation, following.activation, added)
                residual = residual if added is None else None
                index += 2
                continue
            if stage.kind == "pointwise":
                added = residual if index + 1 == len(stages) else None
                x = kernels.pointwise_conv2d(x, weight, bias, stage.activation, added)
                residual = residual if added is None else None
            elif stage.kind == "depthwise":
                x = kernels.depthwise_conv2d(x, weight, bias, *geometry, stage.activation)
            else:
                x = fallback.conv2d(x, weight, bias, *geometry, stage.groups, stage.activation)
            index += 1
        x = x if residual is None else x + residual
        return x.contiguous(memory_format=torch.channels_last)


def fold(stage: Stage, tensors: Tensors) -> Folded:
    """A stage's weight and bias with its batch-norm in them, computed in float32 and rounded once."""
    weight, bias, gamma, beta, mean, variance = tensors
    if stage.normalisation is None:
        return weight, bias
    assert mean is not None and variance is not None
    scale = (variance.float() + stage.normalisation.eps).rsqrt()
    if gamma is not None:
        scale = scale * gamma.float()
    away = mean.float() if bias is None else mean.float() - bias.float()
    shift = -away * scale if beta is None else torch.addcmul(beta.float(), away, scale, value=-1)
    folded = weight.float() * scale[:, None, None, None]
    return folded.to(weight.dtype), shift.to(weight.dtype)
