"""How long each operator of a network takes in the network's own run, in PyTorch and through Ninefold.

Nothing is run alone for this: an operator finds the caches as its neighbours left them. What is read is the
time around each call, so what Python does between two calls is not in it. The network is run often, and the
median is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ninefold import census
from ninefold.inference import InferenceModel
from ninefold.inference.profile import Part, profile

_LEAST, _MOST = 5, 200
Progress = Callable[[float], None]


def operators(
    model: torch.nn.Module, inputs: tuple[Any, ...], *, seconds: float, progress: Progress
) -> tuple[float, ...]:
    """Seconds of each operator of `model`, in the order of `census.take(model, inputs).operators`.

    The median of at least five runs, for about `seconds`. Raises ValueError for a network that does not call
    the same operators each time.
    """
    samples: list[list[float]] = []
    with census.in_eval(model), torch.no_grad():
        for _ in _rounds(seconds, progress):
            with _Clock() as clock:
                model(*inputs)
            samples.append(clock.seconds)
    _check_steady({len(taken) for taken in samples})
    return tuple(median(taken) for taken in zip(*samples, strict=True))


def parts(
    model: InferenceModel, inputs: tuple[Any, ...], *, seconds: float, progress: Progress
) -> tuple[Part, ...]:
    """The parts of a network from `for_inference`, each with the median of its times."""
    samples = [profile(model, *inputs) for _ in _rounds(seconds, progress)]
    _check_steady({len(taken) for taken in samples})
    return tuple(
        Part(same[0].label, same[0].what, median(part.seconds for part in same))
        for same in zip(*samples, strict=True)
    )


def _check_steady(counts: set[int]) -> None:
    if len(counts) > 1:
        raise ValueError(f"`model` must call the same operators at each run, got {sorted(counts)} of them")


def _rounds(seconds: float, progress: Progress) -> Iterator[int]:
    began = time.perf_counter()
    for done in range(_MOST):
        spent = (time.perf_counter() - began) / max(seconds, 1e-9)
        progress(min(1.0, spent))
        if done > _LEAST and spent >= 1:
            return
        yield done


class _Clock(TorchDispatchMode):
    """Notes how long each operator takes; the list grows, nothing else happens between two calls."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        self.seconds.append(time.perf_counter() - start)
        return result
