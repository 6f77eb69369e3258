"""What `ninefold convert` does: read network and data, convert, distil, measure, say and save."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import click

from . import outcome, pictures, progress


def transform(
    model: str,
    *,
    data: str | None,
    terms: int | None,
    budget: float | None,
    order: Any,
    layers: tuple[str, ...],
    images: int,
    passes: int,
    epochs: int,
    batch: int,
    rate: float,
    labels: float,
    plain: bool,
    run: Path | None,
    resume: bool,
    weights: Path | None,
    mean: str | None,
    deviation: str | None,
    seed: int,
    threads: int | None,
    seconds: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """Convert `model` and print what became of it; everything that can be refused is, before any work.

    Raises what `models.load`, `datasets.load` and `convert` raise, FileExistsError for an output that is
    there, ValueError for --epochs without data. Ctrl-C in distilling ends with code 130.
    """
    if epochs and data is None:
        raise ValueError(f"`epochs` must go with `data` to learn from, got {epochs} and none")
    if (run is not None or resume) and not epochs:
        raise ValueError("`run` and `resume` must go with `epochs` to distil for, got none")
    if output is not None and (output.exists() or output.is_symlink()):
        raise FileExistsError(f"`output` must be new, got {str(output)!r}, which exists")
    with progress.steps() as steps:
        steps.passing("loading PyTorch and the network")
        try:
            import torch
        except ModuleNotFoundError:
            raise ImportError("converting a network needs PyTorch: pip install 'ninefold[torch]'") from None
        from ninefold import models
        from ninefold.conversion import accuracy, convert, distil, scored, timed
        from ninefold.conversion.distil import check
        from ninefold.trainer import Interrupted, joined

        if epochs:
            check(epochs, batch, rate, run, resume)
        if threads is not None:
            torch.set_num_threads(threads)
        network = models.load(model, weights)
        preparation = pictures.preparation(network, mean, deviation)
    with joined() as group, progress.steps() if group.first else nullcontext(progress.Steps()) as steps:
        source = pictures.Pictures(data, preparation, images, epochs, batch, seed)
        if labels and not (epochs and source.labelled):
            raise ValueError(f"`labels` must go with `epochs` and data that has labels, got {labels}")
        if source.test is not None:
            accuracy(
                network.model, islice(source.test, 1)
            )  # refuses what has no classes, before the long work
        tell = _teller(steps)
        found = convert(
            network.model,
            network.examples,
            source.calibration,
            terms,
            budget=budget,
            order=order,
            layers=layers or None,
            passes=passes,
            seed=seed,
            progress=tell,
        )
        if source.test is not None and group.first:
            steps.step(f"testing on {source.tested} pictures")
            stage = "calibrated" if epochs else "converted"
            found = scored(found, network.model, source.test, stage=stage)
        if epochs:
            try:
                distil(
                    found.model,
                    network.model,
                    source.training,
                    epochs=epochs,
                    layers=tuple(found.choices),
                    batch=batch,
                    learning_rate=rate,
                    labels=labels,
                    fused=not plain,
                    seed=seed,
                    output=run,
                    resume=resume,
                    progress=tell,
                )
            except Interrupted as stopped:
                click.echo(f"ninefold: {stopped}", err=True)
                sys.exit(130)
        if not group.first:
            return
        if epochs and source.test is not None:
            steps.step(f"testing on {source.tested} pictures")
            found = scored(found, network.model, source.test, stage="distilled")
        if seconds:
            found = timed(
                found, network.model, network.examples, threads=threads, seconds=seconds, progress=tell
            )
        if output is not None:
            found.save(output)
    if as_json:
        click.echo(json.dumps(outcome.plain(found, network.name, output), indent=2, ensure_ascii=False))
    else:
        outcome.show(found, trained=network.trained, tested=source.tested, output=output)


def _teller(steps: progress.Steps) -> Callable[[str, float], None]:
    """What the library tells, as steps: a new text is a new step."""
    last = ""

    def tell(text: str, share: float) -> None:
        nonlocal last
        if text != last:
            steps.step(text)
            last = text
        steps.done(share)

    return tell
