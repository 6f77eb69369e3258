"""How to train, and the learning rate that follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """How to train; a resumed run must have the same, `save_every` apart. Raises ValueError for a bad one.

    `batch` is each process's. `momentum` is SGD's, or Adam's for the gradient's mean. `fused` trains in
    Ninefold's kernels, `activations` is `for_training`'s. `synchronised` takes batch-norm's statistics over
    all processes, in PyTorch. `unreadable` says what a picture that cannot be read does. A checkpoint is
    written after each epoch, and within one every `save_every` steps.
    """

    epochs: int = 10
    batch: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warm_up: int = 1
    label_smoothing: float = 0.0
    optimiser: Literal["sgd", "adam"] = "sgd"
    seed: int = 0
    fused: bool = True
    activations: str | None = None
    synchronised: bool = False
    unreadable: Literal["stop", "skip"] = "stop"
    save_every: int = 500

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "momentum", "weight_decay", "warm_up"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be non-negative and finite, got {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must be in [0, 1), got {self.label_smoothing}")
        if self.optimiser not in ("sgd", "adam"):
            raise ValueError(f"`optimiser` must be 'sgd' or 'adam', got {self.optimiser!r}")
        if self.unreadable not in ("stop", "skip"):
            raise ValueError(f"`unreadable` must be 'stop' or 'skip', got {self.unreadable!r}")


def learning_rate(settings: Settings, step: int, steps: int) -> float:
    """The rate at a step, of `steps` in an epoch: up in a line, then along half a cosine to nothing."""
    up, end = settings.warm_up * steps, settings.epochs * steps
    if step < up:
        return settings.learning_rate * (step + 1) / up
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - up) / max(1, end - up)))
