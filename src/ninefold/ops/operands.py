"""What training's passes over images take and give: plain data, the same for the CPU's kernels and the GPU's.

An image between two convolutions is kept raw, as the first one wrote it, with `numbers`: four rows of one
number per channel, mean, variance, scale and shift, float32. The next one reads
activation(scale·(z - mean) + shift). A gradient is kept as it arrives at the activation's output; `turn`,
three rows, makes of it that of z. The formulas stand in kernels/batchnorm.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Activations that are no clip: their derivative is multiplied into the gradient as soon as that is made.
SLOPED = ("silu", "hardswish", "gelu", "gelu_tanh", "hardsigmoid", "sigmoid")


@dataclass(frozen=True)
class Operand:
    """An image as the next convolution reads it; without numbers, as it is.

    `bare`: the numbers are `unchanged` ones, and a gradient is wanted at z, not its sums at the activation.
    """

    z: Tensor
    numbers: Tensor | None = None
    activation: str | None = None
    bare: bool = False

    @property
    def pixels(self) -> int:
        """Values of one channel."""
        return self.z.numel() // self.z.shape[1]


@dataclass(frozen=True)
class Gradient:
    """The gradient that arrives at an operand, and how it becomes that of z; without a turn it is that."""

    operand: Operand
    arrived: Tensor
    turn: Tensor | None = None


@dataclass(frozen=True)
class Gradients:
    """What a convolution's backward pass made; `sums` are the input's Σ g and Σ g·(z - mean)."""

    weight: Tensor | None
    input: Tensor | None
    sums: Tensor | None


def activated(z: Tensor, activation: str | None) -> Operand:
    """An image that is read through an activation, and through nothing else."""
    return Operand(z) if activation is None else Operand(z, unchanged(z), activation, bare=True)


def unchanged(z: Tensor) -> Tensor:
    """The numbers of an operand that normalises nothing."""
    row = z.new_tensor([[0.0], [1.0], [1.0], [0.0]], dtype=torch.float32)
    return row.expand(4, z.shape[1]).contiguous()


def dense(x: Tensor) -> Tensor:
    """An image without its history, dense channels-last."""
    return x.detach().contiguous(memory_format=torch.channels_last)
