"""A chain on the CPU in one call of the extension each way (kernels/runtime/chain.cpp).

The same passes as `chain.py` makes stage by stage, to the same bits. There a stage is two dozen of PyTorch's
functions, and the images have swept the caches before each: a tenth of a mobilenetv2_100 step on one thread.
"""

from __future__ import annotations

import atexit
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ninefold.ops import backend, cpu, passes, whole
from ninefold.ops.cpu import _kernels
from ninefold.ops.operands import Operand
from ninefold.training import again, gates
from ninefold.training.stages import Stage, Tensors, output_size

Shape = tuple[int, ...]
_PER_STAGE = 6  # tensors; the first four have gradients


def possible(x: Tensor, stages: Sequence[Stage], tensors: Sequence[Tensors]) -> bool:
    """Whether all stages of a chain that runs in kernels have them both ways, and need nothing of PyTorch."""
    if backend.on_gpu(x):
        return False
    wanted = x.requires_grad and torch.is_grad_enabled()  # whether the stage's own image has a gradient
    height, width = x.shape[2:]
    for stage, (weight, *_, mean, variance) in zip(stages, tensors, strict=True):
        height, width = output_size(stage, weight, height, width)
        ours = whole.in_kernels(weight, stage.groups, width) and not (wanted and max(stage.stride) > 1)
        # They are written where they lie.
        dense = all(running is None or running.is_contiguous() for running in (mean, variance))
        if not dense or (stage.kind == "standard" and not ours):
            return False
        wanted = True
    return True


def run(
    x: Tensor,
    stages: Sequence[Stage],
    tensors: Sequence[Tensors],
    residual: Tensor | None,
    momenta: Sequence[float] | None,
) -> tuple[Tensor, Tensor]:
    """`chain.run`: the output, and the numbers of all stages, four for each channel, side by side.

    The running statistics move by `momenta`; without those they stay.
    """
    shapes = tuple(tuple(weight.shape) for weight, *_ in tensors)
    plan = _plan(tuple(stages), shapes, tuple(x.shape[1:]))
    kept: list[Tensor] = []
    flat = [tensor for stage in tensors for tensor in stage]
    moving = [math.nan] * len(stages) if momenta is None else list(momenta)
    # A residual that is x itself is no argument of its own: autograd would add the two gradients in a pass.
    itself = residual is x
    out: Tensor = _AtOnce.apply(
        x, None if itself else residual, itself, plan, moving, kept, gates.origin(x), *flat
    )
    z, numbers = kept
    if residual is None and plan.last is not None and out.requires_grad:
        rows = numbers[-4 * out.shape[1] :].view(4, -1)
        gates.remember(out, Operand(z, rows, plan.last.activation))
    return out, numbers


@dataclass(frozen=True)
class _Plan:
    """What stays the same for a chain and an image's shape."""

    chain: Any  # the extension's
    sizes: tuple[tuple[int, int, int], ...]  # each output's channels, height and width
    made_again: tuple[bool, ...]
    numbers: int
    last: Stage | None  # the last stage, if its output is not the result as it is


@lru_cache(maxsize=1024)
def _plan(stages: tuple[Stage, ...], weights: tuple[Shape, ...], image: Shape) -> _Plan:
    _, height, width = image
    made, sizes = [], []
    for stage, (outputs, _, tall, wide) in zip(stages, weights, strict=True):
        norm = stage.normalisation
        window = _kernels.Window(tall, wide, *stage.stride, *stage.dilation)
        has = norm is not None, norm is not None and norm.batch_statistics, norm.eps if norm else 0.0
        sides = _kernels.Padding(*stage.padding)
        made.append(_kernels.Stage(stage.kind, outputs, window, sides, stage.activation or "", *has))
        height, width = cpu._size(height, width, (tall, wide), stage.stride, stage.padding, stage.dilation)
        sizes.append((outputs, height, width))
    last = stages[-1]
    return _Plan(
        _kernels.Chain(made, stages[0].ahead or ""),
        tuple(sizes),
        again.chosen(stages, weights),
        4 * sum(outputs for outputs, *_ in sizes),
        last if last.normalisation is not None or last.activation is not None else None,
    )


# The extension's own things are to be gone when the interpreter is, or nanobind calls them leaked.
atexit.register(_plan.cache_clear)


class _AtOnce(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        itself: bool,
        plan: _Plan,
        momenta: list[float],
        kept: list[Tensor],
        made_of: gates.Origin | None,
        *flat: Tensor | None,
    ) -> Tensor:
        image = cpu.laid_out(x.detach(), torch.channels_last)
        added = image if itself else None
        if residual is not None:
            added = cpu.laid_out(residual.detach(), torch.channels_last)
        n = image.shape[0]
        outputs = [
            None if later else passes._image(n, *size)
            for later, size in zip(plan.made_again, plan.sizes, strict=True)
        ]
        last = outputs[-1]
        assert last is not None
        numbers = torch.empty(plan.numbers, dtype=torch.float32, device="cpu")
        out = last if plan.last is None and added is None else passes._image(n, *plan.sizes[-1])
        tensors = [None if tensor is None else cpu._dense(tensor) for tensor in flat]
        plan.chain.forward(
            *_place(image),
            [cpu._address(tensor) for tensor in tensors],
            momenta,
            [cpu._address(output) for output in outputs],
            numbers.data_ptr(),
            cpu._address(added),
            0 if out is last else out.data_ptr(),
            torch.get_num_threads(),
        )
        kept += last, numbers
        ctx.plan, ctx.itself = plan, itself
        origin, ctx.activation = gates.kept(image, made_of)
        ctx.save_for_backward(*origin, *outputs, numbers, *flat)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        plan, (image, about_it, gate, *saved) = ctx.plan, ctx.saved_tensors
        image = gates.restored(image, about_it, gate, ctx.activation)
        count = len(plan.sizes)
        numbers, flat = saved[count], saved[count + 1 :]
        # Someone's hooks may have kept images in another layout.
        last = torch.channels_last
        image = cpu.laid_out(image, last)
        outputs = [None if z is None else cpu.laid_out(z, last) for z in saved[:count]]
        needs_x, needs_residual, _, _, _, _, _, *needs = ctx.needs_input_grad
        arrived = cpu.laid_out(gradient.detach(), last)
        tensors = [None if tensor is None else cpu._dense(tensor) for tensor in flat]
        made = [
            None if tensor is None or not need else _room(tensor)
            for tensor, need in zip(tensors, needs, strict=True)
        ]
        along = passes._image(*image.shape) if needs_x else None
        plan.chain.backward(
            *_place(image),
            [cpu._address(tensor) for tensor in tensors],
            [cpu._address(output) for output in outputs],
            numbers.data_ptr(),
            arrived.data_ptr(),
            [cpu._address(tensor) for place, tensor in enumerate(made) if place % _PER_STAGE < 4],
            cpu._address(along),
            ctx.itself,
            torch.get_num_threads(),
        )
        return along, gradient if needs_residual else None, *[None] * 5, *made


def _place(image: Tensor) -> tuple[int, tuple[int, int, int, int]]:
    n, c, h, w = image.shape
    return image.data_ptr(), (n, h, w, c)


def _room(tensor: Tensor) -> Tensor:
    return passes._like(tensor) if tensor.dim() == 4 else torch.empty_like(tensor)
