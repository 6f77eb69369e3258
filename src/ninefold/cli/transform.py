"""What `ninefold convert` does: read network and data, convert, distil, measure, say and save."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import outcome, progress

if TYPE_CHECKING:
    import torch

    from ninefold.models import Network
    from ninefold.photos import Preparation

# A network that is tested on fewer pictures tells little, on more takes long.
_TESTED = 10_000


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
    there, ValueError for --epochs without data; Interrupted for Ctrl-C in distilling.
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
        from ninefold.conversion import convert, distil, singular_values_alone, timed
        from ninefold.conversion.distil import check
        from ninefold.trainer import Interrupted, joined

        if epochs:
            check(epochs, batch, rate, run, resume)
        if threads is not None:
            torch.set_num_threads(threads)
        network = models.load(model, weights)
        preparation = _preparation(network, mean, deviation)
    with joined() as group, progress.steps() if group.first else nullcontext(progress.Steps()) as steps:
        source = _Data(data, preparation, images, epochs, batch, seed)
        if labels and not (epochs and source.labelled):
            raise ValueError(f"`labels` must go with `epochs` and data that has labels, got {labels}")
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
        accuracies = {}
        if source.test is not None and group.first:
            steps.step(f"testing on {source.tested} pictures")
            accuracies["original"] = _accuracy(network.model, source.test)
            alone = singular_values_alone(found, network.model)
            accuracies["singular values alone"] = _accuracy(alone, source.test)
            stage = "converted" if not epochs else "calibrated"
            accuracies[stage] = _accuracy(found.model, source.test)
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
            accuracies["distilled"] = _accuracy(found.model, source.test)
        if seconds:
            found = timed(
                found, network.model, network.examples, threads=threads, seconds=seconds, progress=tell
            )
        found = replace(found, accuracies=accuracies)
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


class _Data:
    """Pictures to calibrate on, to distil on and to test on; the last two never meet."""

    def __init__(
        self,
        data: str | None,
        preparation: Preparation,
        images: int,
        epochs: int,
        batch: int,
        seed: int,
    ) -> None:
        self.calibration: Any = None
        self.training: Any = None
        self.test: Any = None
        self.tested = 0
        self.labelled = False
        if data is None:
            return
        import torch
        from torch.utils.data import DataLoader, Subset

        from ninefold import datasets

        first, second = datasets.load(data, preparation)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(first), generator=generator).tolist()
        if len(order) < images:
            raise ValueError(f"`images` must be at most {len(order)}, as many as there are, got {images}")
        kept = order
        test: Any = second
        if second is None:
            # One part for all: what is tested on is not learnt from.
            learnt = images if not epochs else max(images, len(order) * 4 // 5)
            kept, test = order[:learnt], Subset(first, order[learnt:])
        labelled = first.labelled and (second is None or second.labelled)
        self.labelled = first.labelled
        if labelled and len(test):
            self.tested = min(len(test), _TESTED)
            self.test = DataLoader(Subset(test, range(self.tested)), batch)
        self.calibration = DataLoader(Subset(first, kept[:images]), batch)
        self.training = Subset(first, kept)


def _preparation(network: Network, mean: str | None, deviation: str | None) -> Preparation:
    """How the network wants its pictures: as its input is shaped, normalised as it or somebody says."""
    shape = tuple(getattr(network.examples[0], "shape", ()))
    if len(shape) != 4:
        raise ValueError(f"`model` must take pictures (batch, channels, height, width), got input {shape}")
    channels = shape[1]
    known = network.preparation
    if len(known.mean) != channels:
        # Nothing said how: values from 0 to 1.
        known = replace(known, mean=(0.0,) * channels, deviation=(255.0,) * channels)
    if network.inputs is not None and known.size != shape[2:]:
        known = replace(known, size=(shape[2], shape[3]), crop=1.0)
    return replace(
        known,
        mean=_numbers("mean", mean, channels) or known.mean,
        deviation=_numbers("deviation", deviation, channels) or known.deviation,
    )


def _numbers(name: str, text: str | None, channels: int) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        values = tuple(255 * float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"`{name}` must be numbers with commas between, got {text!r}") from None
    if len(values) not in (1, channels):
        raise ValueError(f"`{name}` must be one number or {channels}, got {text!r}")
    if name == "deviation" and min(values) <= 0:
        raise ValueError(f"`{name}` must be positive, got {text!r}")
    return values * channels if len(values) == 1 else values


def _accuracy(model: torch.nn.Module, batches: Any) -> float:
    """The share of the pictures whose highest answer is their label."""
    import torch

    from ninefold import census

    right = seen = 0
    with census.in_eval(model), torch.no_grad():
        for images, labels in batches:
            answers = model(images)
            if not isinstance(answers, torch.Tensor) or answers.dim() != 2:
                raise ValueError(
                    "`model` must answer with one number per class to be tested on labelled pictures"
                )
            right += int((answers.argmax(1) == labels).sum())
            seen += len(images)
    return right / seen
