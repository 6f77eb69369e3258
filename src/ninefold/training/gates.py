"""A gate on a chain's image, as squeeze-and-excitation has it: one number per image and channel.

PyTorch keeps the image for the gate's gradient, and the product for the convolution behind. A chain's image
is made again from what the chain keeps anyway, so neither outlives the forward pass: they were 76 of the 429
MB that MobileNetV3 held at the peak of a step, which takes 0.5 to 1 % longer for it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.fx import Graph, Node

from ninefold.ops import passes
from ninefold.ops.operands import Operand, dense
from ninefold.training.chains import traced
from ninefold.training.reading import read


@dataclass(frozen=True)
class Origin:
    """What an image was made of: an operand, and perhaps a gate that it was multiplied by."""

    operand: Operand
    gate: Tensor | None
    version: int

    def made(self) -> Tensor:
        """The image once more, bit for bit."""
        image = passes.apply(self.operand)
        return image if self.gate is None else image.mul_(self.gate)


def remember(image: Tensor, operand: Operand, gate: Tensor | None = None) -> None:
    """Let an image on the CPU, whose gradient is wanted, know what it was made of."""
    if image.requires_grad and image.is_cpu:
        image._ninefold_origin = Origin(operand, gate, image._version)  # type: ignore[attr-defined]


def origin(image: Tensor) -> Origin | None:
    """What an image was made of, unless it has been written to since."""
    found: Origin | None = getattr(image, "_ninefold_origin", None)
    return found if found is not None and found.version == image._version else None


def kept(image: Tensor, made_of: Origin | None) -> tuple[tuple[Tensor | None, ...], str | None]:
    """What a chain keeps of its image: three tensors, and an activation's name. See `restored`."""
    if made_of is None or made_of.gate is None:
        return (image, None, None), None
    operand = made_of.operand
    return (operand.z, operand.numbers, made_of.gate), operand.activation


def restored(z: Tensor, numbers: Tensor | None, gate: Tensor | None, activation: str | None) -> Tensor:
    """The image of which that was kept: itself, or made again where a gate had been multiplied into it."""
    return z if gate is None else Origin(Operand(z, numbers, activation), gate, 0).made()


def place(graph: Graph, calls: Collection[Node]) -> None:
    """Let `gated` stand for each product of a chain's image, one of `calls`, and a gate."""
    for node in list(graph.nodes):
        call = read(node)
        if call is None or call.name != "mul":
            continue
        one, other = call.given["input"], call.given["other"]
        for image, gate in ((one, other), (other, one)):
            if image in calls and _fit(traced(image), traced(gate)):
                with graph.inserting_before(node):
                    product = graph.call_function(gated, (image, gate))
                product.meta = dict(node.meta)
                node.replace_all_uses_with(product)
                graph.erase_node(node)
                break


def gated(image: Tensor, gate: Tensor) -> Tensor:
    """The image times the gate; what the image was made of is kept in its place."""
    known = origin(image)
    if known is None or known.gate is not None or gate.dtype is not image.dtype or not _fit(image, gate):
        return image * gate
    out: Tensor = _Gated.apply(image, gate, known.operand)
    remember(out, known.operand, gate.detach())
    return out


def _fit(image: Tensor | None, gate: Tensor | None) -> bool:
    if image is None or gate is None or image.dim() != 4 or gate.dim() != 4:
        return False
    return image.shape[:2] == gate.shape[:2] and gate.shape[2:] == (1, 1)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, gate: Tensor, operand: Operand) -> Tensor:
        ctx.save_for_backward(operand.z, operand.numbers, gate)
        ctx.activation = operand.activation
        return image * gate

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        z, numbers, gate = ctx.saved_tensors
        needs_image, needs_gate, _ = ctx.needs_input_grad
        along = None
        if needs_gate:
            image = passes.apply(Operand(z, numbers, ctx.activation))
            along = image.mul_(dense(gradient)).sum((2, 3), keepdim=True)
        return gradient * gate if needs_image else None, along, None
