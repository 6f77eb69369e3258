"""Optimisers' steps, counted: a fused one changes its weights and leaves their version counters alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

# By a weight's id. One that is used again for another weight makes a change out of none, never the reverse.
_steps: Counter[int] = Counter()
_total = 0


def total() -> int:
    """Steps of all optimisers so far: while it stays, so do all the others."""
    return _total


def taken(weights: list[Tensor]) -> list[int]:
    """How often an optimiser has stepped each weight."""
    return [_steps[id(weight)] for weight in weights]


def _count(optimiser: Optimizer, *_: Any) -> None:
    global _total
    for group in optimiser.param_groups:
        _steps.update(map(id, group["params"]))
    _total += 1


register_optimizer_step_post_hook(_count)
