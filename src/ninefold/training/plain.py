"""A chain in PyTorch's own operators: where the kernels do not reach, and the truth for the tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ninefold.ops.fallback import ACTIVATIONS, convolve
from ninefold.training.stages import Stage, Tensors


def run(
    x: Tensor,
    stages: Sequence[Stage],
    tensors: Sequence[Tensors],
    momenta: Sequence[float],
    residual: Tensor | None = None,
) -> Tensor:
    """Convolve, normalise, activate, stage by stage; add the residual. Updates running statistics itself.

    `tensors` are those of `chain.run`. Raises what PyTorch raises: ValueError for one value per channel.
    """
    x = ACTIVATIONS[stages[0].ahead](x)
    for stage, (weight, bias, gamma, beta, mean, variance), momentum in zip(
        stages, tensors, momenta, strict=True
    ):
        x = convolve(x, weight, bias, stage.stride, stage.padding, stage.dilation, stage.groups)
        norm = stage.normalisation
        if norm is not None:
            x = F.batch_norm(x, mean, variance, gamma, beta, norm.batch_statistics, momentum, norm.eps)
        x = ACTIVATIONS[stage.activation](x)
    return x if residual is None else x + residual
