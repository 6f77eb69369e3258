"""Kernels for the weights a model has now: packed once, again when a weight changed."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.__future__ import get_swap_module_params_on_conversion

from ninefold.training import steps

# What tells that a tensor is as it was: the counter of its edits, and where its numbers lie.
Marks = tuple[list[int], list[int]]


@dataclass
class _Set:
    """The weights of one model as they were when it was last called, and their kernels, if any."""

    marks: Marks
    steps: int
    stepped: list[int]
    watched: list[Tensor]
    seen: Tensor
    held: list[Any]
    kernels: Any = None


class Packed:
    """Gives the kernels for a list of weights; `pack` makes them. Safe to call from several threads.

    Several models share one compiled graph if only their weights differ: each has kernels of its own. The
    kernels of a model go when one of its weights does. Of the weights at the positions `statistics` every
    number is compared: batch-norm in training mode changes them and counts no edit.
    """

    def __init__(self, pack: Callable[[list[Tensor]], Any], statistics: frozenset[int]) -> None:
        self._pack, self._statistics = pack, statistics
        self._sets: dict[tuple[int, ...], _Set] = {}
        self._lock = threading.RLock()
        self._packed_before = False

    def find(self, weights: list[Tensor]) -> Any:
        """Return the kernels for these weights as they are, or None: let PyTorch compute this once.

        Weights that were changed are packed when they come again unchanged: those that change between every
        two calls never are.
        """
        key = tuple(map(id, weights))
        total = steps.total()
        try:
            marks = [weight._version for weight in weights], [weight.data_ptr() for weight in weights]
        except RuntimeError:  # tensors made in inference mode count no versions
            return None
        known = self._sets.get(key)
        if known is not None and known.marks == marks and _same(known, total, weights):
            return known.kernels or self._fill(known, weights)
        fresh = self._remembered(key, weights, marks, total)
        self._sets[key] = fresh
        return None if self._packed_before else self._fill(fresh, weights)

    def _fill(self, known: _Set, weights: list[Tensor]) -> Any:
        with self._lock:
            if known.kernels is None:
                known.kernels = self._pack(weights)
                self._packed_before = True
            return known.kernels

    def _remembered(self, key: tuple[int, ...], weights: list[Tensor], marks: Marks, total: int) -> _Set:
        # The aliases keep the memory, so that no other tensor can come to lie at the same address.
        aliases = [weight.detach() for weight in weights]
        watched = [
            aliases[index] for index in sorted(self._statistics) if aliases[index].device.type == "cpu"
        ]
        held: list[Any] = [*aliases]
        if get_swap_module_params_on_conversion():
            held += weights  # PyTorch swaps no tensor that has a weak reference
        else:
            sets = self._sets
            held += [weakref.ref(weight, lambda _: sets.pop(key, None)) for weight in weights]
        return _Set(marks, total, steps.taken(weights), watched, _numbers(watched), held)


def _same(known: _Set, total: int, weights: list[Tensor]) -> bool:
    if known.steps != total:
        if known.stepped != steps.taken(weights):
            return False
        known.steps = total
    return torch.equal(_numbers(known.watched), known.seen)


def _numbers(watched: list[Tensor]) -> Tensor:
    """The watched numbers as they are now, bit by bit."""
    return torch.cat(watched).view(torch.uint8) if watched else torch.empty(0)
