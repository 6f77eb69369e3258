"""Depthwise outputs that a chain's backward pass makes again, from the image before, instead of keeping them.

That image is kept anyway, with the numbers of its batch-norm, and the forward pass's kernel gives the same
bits once more. At 3×3 that takes 0.7 ns a value (AVX-512, one thread) and spares four bytes; beside it stand
three matrix products of the pointwise convolution behind, one forward and two backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from torch import Tensor

from ninefold.ops.operands import Operand, activated
from ninefold.training.stages import Stage, Tensors

# Of the time of the three products. Chains of such pairs, forward and backward (batch 16, one thread), took
# longer by 1.9 % for 728→728 at 8², 2.1 % for 512→512 at 14², 5.5 % for 256→256 at 28² and 32², 10 % for
# 128→128 at 64², and by 3.5 % for 512→512 at 14² behind 5×5.
MOST = 0.02
# What a value takes, in multiplications of those products: each of its taps, each value that is read for it.
_TAP, _READ = 2.0, 14.0


def chosen(stages: Sequence[Stage], weights: Sequence[Sequence[int]]) -> tuple[bool, ...]:
    """Which stages' outputs are made again, by the weights' shapes; on the CPU, where it was measured."""
    follow = [_cheap(*pair) for pair in zip(stages, stages[1:], weights, weights[1:], strict=False)]
    return *follow, False


def _cheap(stage: Stage, following: Stage, own: Sequence[int], theirs: Sequence[int]) -> bool:
    if stage.kind != "depthwise" or following.kind != "pointwise":
        return False
    taps, reads = own[2] * own[3], stage.stride[0] * stage.stride[1]
    return _TAP * taps + _READ * reads <= MOST * 3 * theirs[0]


@dataclass(frozen=True)
class Images:
    """A chain's images as its backward pass reads them; an output that is None is made again."""

    home: ModuleType
    stages: Sequence[Stage]
    tensors: Sequence[Tensors]
    image: Tensor
    outputs: Sequence[Tensor | None]
    numbers: Sequence[Tensor | None]

    def operand(self, index: int) -> Operand:
        """The output of a stage as the next one reads it; -1 for the chain's image."""
        if index < 0:
            return activated(self.image, self.stages[0].ahead)
        z, stage = self.outputs[index], self.stages[index]
        if z is None:
            weight, bias, *_ = self.tensors[index]
            geometry = stage.stride, stage.padding, stage.dilation
            z = self.home.depthwise(self.operand(index - 1), weight, bias, *geometry, None)
        return Operand(z.to(self.image.dtype), self.numbers[index], stage.activation)
