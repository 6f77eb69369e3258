"""One training step of a network on a GPU: bfloat16 autocast, SGD with momentum, its time and peak memory.

Each way of training has a process of its own. The loss and the gradient of its first step are held to those
of PyTorch in float32 before its time counts: at most twice as far from them as PyTorch's own autocast is.
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
import gpu_timing
import ninefold

DEVICE = "cuda"
SIZE = 224
CLASSES = 1000
WAYS = ("ninefold", "eager_nhwc", "torch_compile", "eager_nchw")
FEWEST = 5  # steps that are timed
_WARM = 4


def prepared(way: str, model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A model ready to train in one of WAYS."""
    if way == "ninefold":
        return ninefold.for_training(model)
    if way == "torch_compile":
        return torch.compile(model, dynamic=False)
    return model


def measure(name: str, way: str, batch: int, *, seconds: float, until: float) -> dict[str, Any]:
    """Time steps of a network for about `seconds`; stop in any case when the clock says `until`."""
    torch.manual_seed(0)
    form = torch.contiguous_format if way == "eager_nchw" else torch.channels_last
    model = gpu_cases.network(name).to(DEVICE).to(memory_format=form)
    # Two batches in turns: neither lies in a cache.
    images = [torch.randn(batch, 3, SIZE, SIZE, device=DEVICE).contiguous(memory_format=form) for _ in "ab"]
    labels = [torch.randint(CLASSES, (batch,), device=DEVICE) for _ in "ab"]
    right = _first(copy.deepcopy(model), images[0], labels[0], autocast=False)
    theirs = _apart(_first(copy.deepcopy(model), images[0], labels[0]), right)
    _release()
    run = prepared(way, model)
    began = time.perf_counter()
    ours = _apart(_gradient(run, model, images[0], labels[0]), right)
    first_step = time.perf_counter() - began
    made: dict[str, Any] = {
        "network": name,
        "way": way,
        "batch": batch,
        "distance": ours,
        "autocast_distance": theirs,
        "first_step": first_step,
    }
    if not all(mine <= 2 * other + 0.02 for mine, other in zip(ours, theirs, strict=True)):
        return made | {"wrong": True}
    del right
    model.zero_grad(set_to_none=True)
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


def _first(
    model: nn.Module, images: Tensor, labels: Tensor, *, autocast: bool = True
) -> tuple[Tensor, Tensor]:
    return _gradient(model, model, images, labels, autocast=autocast)


def _gradient(
    run: Callable[[Tensor], Tensor],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    autocast: bool = True,
) -> tuple[Tensor, Tensor]:
    """Loss and gradient of one step; running statistics move."""
    with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
        loss = F.cross_entropy(run(images), labels)
    loss.backward()
    gradients = [p.grad.flatten().float() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return loss.detach().float(), torch.cat(gradients)


def _apart(one: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Relative distances of loss and gradient."""
    loss, gradient = (gpu_timing.distance(got, want) for got, want in zip(one, right, strict=True))
    return loss, gradient


def _release() -> None:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
