"""What `ninefold train` does once its arguments are read."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ninefold import models, trainer


def give(
    name: str,
    folder: Path,
    output: Path,
    *,
    size: int | None,
    weights: Path | None,
    workers: int,
    threads: int | None,
    resume: bool,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Load, train, and say how it goes."""
    if threads is not None:
        torch.set_num_threads(threads)
    checked = trainer.Settings(**settings)
    network = models.load(name, weights)
    data = trainer.open_folder(folder, network.preparation, size=size)
    # timm's way to another number of classes; others keep their logits, of which some stay unused.
    reset = getattr(network.model, "reset_classifier", None)
    if reset is not None and not (weights or network.trained):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(checked.seed)
            reset(len(data.classes))
    with _told(as_json) as tell:
        try:
            trainer.train(network.model, data, output, checked, resume=resume, workers=workers, tell=tell)
        except trainer.Interrupted as stopped:
            click.echo(f"ninefold: {stopped}", err=True)
            sys.exit(130)


class _Lines(trainer.Tell):
    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def result(self, values: dict[str, Any]) -> None:
        if self._as_json:
            click.echo(json.dumps(values))
            return
        accuracy = f"  accuracy {values['accuracy']:.4f}" if "accuracy" in values else ""
        speed = f"  {values['images_per_second']:,.0f} images/s" if "images_per_second" in values else ""
        click.echo(f"epoch {values['epoch']}  loss {values['loss']:.4f}{accuracy}{speed}")

    def skipped(self, reason: str) -> None:
        click.echo(f"ninefold: left out: {reason}", err=True)


class _Live(_Lines):
    def __init__(self, progress: Progress, as_json: bool) -> None:
        super().__init__(as_json)
        self._progress = progress
        self._task = progress.add_task("", total=1.0)

    def epoch(self, number: int, epochs: int) -> None:
        self._title = f"epoch {number} of {epochs}"
        self._progress.reset(self._task, description=self._title, total=1.0)

    def step(self, share: float, loss: float) -> None:
        self._progress.update(self._task, completed=share, description=f"{self._title}, loss {loss:.3f}")


@contextlib.contextmanager
def _told(as_json: bool) -> Any:
    console = Console(stderr=True)
    if not console.is_terminal or os.environ.get("RANK", "0") != "0":
        yield _Lines(as_json)
        return
    columns = TextColumn("{task.description}"), BarColumn(bar_width=24), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Live(progress, as_json)
