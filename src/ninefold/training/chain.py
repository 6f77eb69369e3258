"""Convolution → batch-norm → activation, several times over, as one differentiable function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ninefold.ops.fallback import ACTIVATIONS, convolve


@dataclass(frozen=True)
class Normalisation:
    """What one batch-norm does, besides its tensors; without `batch_statistics` it uses the running ones."""

    eps: float
    batch_statistics: bool


@dataclass(frozen=True)
class Stage:
    """One convolution with its batch-norm and activation; padding is (left, right, top, bottom)."""

    kind: Literal["depthwise", "pointwise", "standard"]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    normalisation: Normalisation | None
    activation: str | None


def run(
    x: Tensor,
    stages: Sequence[Stage],
    tensors: Sequence[tuple[Any, ...]],
    residual: Tensor | None = None,
    *,
    keep: str = "float32",
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Return the output (channels-last) and each stage's batch mean and biased variance, detached.

    `tensors`: for each stage weight, bias, gamma, beta, running mean, running variance; all but the first may
    be None. The statistics are empty where none of the batch were used.
    """
    statistics = []
    for stage, (weight, bias, gamma, beta, mean, variance) in zip(stages, tensors, strict=True):
        x = convolve(x, weight, bias, stage.stride, stage.padding, stage.dilation, stage.groups)
        norm = stage.normalisation
        found = x.new_empty(0), x.new_empty(0)
        if norm is not None and norm.batch_statistics:
            variance, mean = torch.var_mean(x.detach(), dim=(0, 2, 3), correction=0)
            found = mean, variance
            x = F.batch_norm(x, None, None, gamma, beta, True, 0.0, norm.eps)
        elif norm is not None:
            x = F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, norm.eps)
        statistics.append(found)
        x = ACTIVATIONS[stage.activation](x)
    x = x if residual is None else x + residual
    return x.contiguous(memory_format=torch.channels_last), statistics


def supported(x: Tensor, stages: Sequence[Stage], tensors: Sequence[tuple[Any, ...]]) -> str:
    """Why this chain runs in PyTorch, or ""."""
    return ""
