"""Kernels for the weights a model has now: packed once, again when a weight changed."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.__future__ import get_swap_module_params_on_conversion

# What tells that a tensor is as it was: the counter of its edits, and where its numbers lie.
Marks = tuple[list[int], list[int]]


@dataclass
class _Set:
    """The weights of one model as they were when it was last called, and their kernels, if any."""

    marks: Marks
    held: list[Any] = field(default_factory=list)
    kernels: Any = None


class Packed:
    """Gives the kernels for a list of weights; `pack` makes them. Safe to call from several threads.

    Several models share one compiled graph if only their weights differ: each has kernels of its own. The
    kernels of a model go when one of its weights does.
    """

    def __init__(self, pack: Callable[[list[Tensor]], Any]) -> None:
        self._pack = pack
        self._sets: dict[tuple[int, ...], _Set] = {}
        self._lock = threading.RLock()
        self._packed_before = False

    def find(self, weights: list[Tensor]) -> Any:
        """Return the kernels for these weights as they are, or None: let PyTorch compute this once.

        Weights that were changed are packed when they come again unchanged: those that change between every
        two calls never are.
        """
        key = tuple(map(id, weights))
        try:
            marks = [weight._version for weight in weights], [weight.data_ptr() for weight in weights]
        except RuntimeError:  # tensors made in inference mode count no versions
            return None
        known = self._sets.get(key)
        if known is not None and known.marks == marks:
            return known.kernels or self._fill(known, weights)
        fresh = _Set(marks, self._held(key, weights))
        self._sets[key] = fresh
        return None if self._packed_before else self._fill(fresh, weights)

    def _fill(self, known: _Set, weights: list[Tensor]) -> Any:
        with self._lock:
            if known.kernels is None:
                known.kernels = self._pack(weights)
                self._packed_before = True
            return known.kernels

    def _held(self, key: tuple[int, ...], weights: list[Tensor]) -> list[Any]:
        # The aliases keep the memory, so that no other tensor can come to lie at the same address.
        aliases: list[Any] = [weight.detach() for weight in weights]
        if get_swap_module_params_on_conversion():
            return [*aliases, *weights]  # PyTorch swaps no tensor that has a weak reference
        sets = self._sets
        return [*aliases, *(weakref.ref(weight, lambda _: sets.pop(key, None)) for weight in weights)]
