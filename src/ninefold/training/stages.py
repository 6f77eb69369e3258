"""What a chain is made of, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

# One stage's weight, bias, gamma, beta, running mean and running variance.
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
    # On a CPU, of a chain's first stage if that is depthwise or pointwise: one that stands ahead of it.
    ahead: str | None = None


def output_size(stage: Stage, weight: Tensor, height: int, width: int) -> tuple[int, int]:
    """Height and width of a stage's output."""
    left, right, top, bottom = stage.padding
    tall, wide = weight.shape[2:]
    return (
        (height + top + bottom - stage.dilation[0] * (tall - 1) - 1) // stage.stride[0] + 1,
        (width + left + right - stage.dilation[1] * (wide - 1) - 1) // stage.stride[1] + 1,
    )
