"""What a name or a file becomes: a network in eval mode, and an input for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ninefold.photos import Preparation


@dataclass(frozen=True)
class Network:
    """A network in eval mode, and how it wants its input; `classes` are names, in the order of its logits.

    `inputs` are its positional inputs, where something said what they are; else it takes a picture.
    """

    name: str
    model: torch.nn.Module
    preparation: Preparation
    classes: tuple[str, ...] | None
    trained: bool
    inputs: tuple[Any, ...] | None = None

    def example(self, batch: int = 1) -> torch.Tensor:
        """Random input of the right shape: (batch, channels, height, width), always the same numbers."""
        return random_numbers((batch, len(self.preparation.mean), *self.preparation.size))

    @property
    def examples(self) -> tuple[Any, ...]:
        """Positional inputs: those that it came with, or a random picture."""
        return self.inputs if self.inputs is not None else (self.example(),)


def random_numbers(shape: tuple[int, ...]) -> torch.Tensor:
    """Normal random numbers, the same each time."""
    return torch.randn(shape, dtype=torch.float32, generator=torch.Generator().manual_seed(0))


def check_file(path: Path, argument: str = "model") -> None:
    """Raise FileNotFoundError for what is no file."""
    if not path.is_file():
        raise FileNotFoundError(f"`{argument}` must be a file that is there, got {str(path)!r}")


def in_words(error: BaseException) -> str:
    """An error of somebody else's code in one line, cut where it is long."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return words if len(words) <= 300 else words[:297] + "..."


@contextmanager
def same_numbers() -> Iterator[None]:
    """The same random weights each time; the caller's random numbers are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
