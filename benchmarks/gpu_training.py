"""One training step of a network on a GPU: bfloat16 autocast, SGD with momentum, its time and peak memory.

Each way of training has a process of its own. Before its time counts, how far the loss falls in a few steps
on one batch is held to PyTorch's in float32. Not the gradient: at the start rounding to bfloat16 turns most
of it about, in PyTorch too (it is 1.0 to 1.2 of its length away from float32's), and no bound would tell.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gpu_cases
import ninefold

DEVICE = "cuda"
SIZE = 224
CLASSES = 1000
WAYS = ("ninefold_graphs", "eager_nhwc", "torch_compile", "ninefold", "eager_nchw")
FEWEST = 5  # steps that are timed
FALLING = 8  # steps on one batch, whose losses are compared
FURTHEST = 0.1  # of the fall, and as far again as PyTorch's own autocast
_WARM = 4


def prepared(way: str, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A model ready to train in one of WAYS."""
    if way.startswith("ninefold"):
        return ninefold.for_training(model, graphs=way == "ninefold_graphs")
    if way == "torch_compile":
        return torch.compile(model, dynamic=False)
    return model


def measure(
    name: str, way: str, batch: int, *, seconds: float, until: float, known: tuple[float, ...] | None = None
) -> dict[str, Any]:
    """Time steps of a network for about `seconds`; stop in any case when the clock says `until`.

    `known`, if another process has found it out: float32's fall and how far PyTorch's autocast is from it.
    """
    torch.manual_seed(0)
    form = torch.contiguous_format if way == "eager_nchw" else torch.channels_last
    model = gpu_cases.network(name).to(DEVICE).to(memory_format=form)
    # Two batches in turns: neither lies in a cache.
    images = [_pictures(batch).contiguous(memory_format=form) for _ in "ab"]
    labels = [torch.randint(CLASSES, (batch,), device=DEVICE) for _ in "ab"]
    right, theirs = known or _references(model, images[0], labels[0])
    _release()
    run = prepared(way, model)
    began = time.perf_counter()
    first_step(run, model, images[0], labels[0])
    starting = time.perf_counter() - began
    ours = abs(_fall(run, model, images[0], labels[0]) - right) / right
    made: dict[str, Any] = {
        "network": name,
        "way": way,
        "batch": batch,
        "distance": ours,
        "autocast_distance": theirs,
        "fall": right,
        "first_step": starting,
    }
    if not ours <= FURTHEST + theirs:
        return made | {"wrong": True}
    optimiser = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step(number: int) -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = F.cross_entropy(run(images[number % 2]), labels[number % 2])
        loss.backward()
        optimiser.step()

    for number in range(_WARM):
        step(number)
    _release()
    torch.cuda.reset_peak_memory_stats()
    taken = _steps(step, seconds, until)
    memory = torch.cuda.max_memory_allocated()
    # Recorded steps hold images in memory of their own: allocated while recording, only reserved afterwards.
    _release()
    memory = max(memory, torch.cuda.memory_reserved())
    return made | {"seconds": median(taken), "steps": len(taken), "peak_bytes": memory}


def _steps(step: Callable[[int], None], seconds: float, until: float) -> list[float]:
    """Seconds of each step, from the end of one to the end of the next, as a training run feels them."""
    ends: list[torch.cuda.Event] = []
    began = time.perf_counter()
    for number in range(400):
        step(number)
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        ends.append(mark)
        if number % 4 == 3:
            mark.synchronize()
        if len(ends) >= FEWEST and (time.perf_counter() - began > seconds or time.time() > until):
            break
    torch.cuda.synchronize()
    return [one.elapsed_time(other) / 1e3 for one, other in pairwise(ends)]


def first_step(run: Callable[[Tensor], Tensor], model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """One step without an optimiser: what compiles does so here. Running statistics move."""
    with torch.autocast(DEVICE, torch.bfloat16):
        loss = F.cross_entropy(run(images), labels)
    loss.backward()
    torch.cuda.synchronize()
    model.zero_grad(set_to_none=True)


def _references(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """The fall of PyTorch's loss in float32, and how far that with autocast is from it, as a share."""
    exact, cast = copy.deepcopy(model), copy.deepcopy(model)
    right = _fall(exact, exact, images, labels, autocast=False)
    return right, abs(_fall(cast, cast, images, labels) - right) / right


def _fall(
    run: Callable[[Tensor], Tensor],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    autocast: bool = True,
) -> float:
    """By how much the loss of one batch falls in a few steps."""
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(FALLING + 1):
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(run(images), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach().float())
    return float(losses[0] - losses[-1])


def _pictures(batch: int) -> Tensor:
    """Smooth random images with a little noise: noise alone looks the same to a network, image by image."""
    coarse = torch.randn(batch, 3, 4, 4, device=DEVICE)
    smooth = F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic")
    return 2 * smooth + 0.3 * torch.randn(batch, 3, SIZE, SIZE, device=DEVICE)


def _release() -> None:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
