"""What a command is doing while one waits, on stderr: a live line on a terminal, else a line a step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Steps:
    """Told by the work what it does."""

    def passing(self, text: str) -> None:
        """Begin something short, which is shown only where it can be taken away again."""

    def step(self, text: str) -> None:
        """Begin the next thing."""

    def done(self, share: float) -> None:
        """Say how far it is, from 0 to 1."""


class _Lines(Steps):
    def step(self, text: str) -> None:
        print(f"{text} …", file=sys.stderr, flush=True)


class _Live(Steps):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None)

    def step(self, text: str) -> None:
        self._progress.reset(self._task, description=text, total=None)

    passing = step

    def done(self, share: float) -> None:
        self._progress.update(self._task, total=1.0, completed=share)


@contextmanager
def steps() -> Iterator[Steps]:
    """Show progress while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Live(progress)
