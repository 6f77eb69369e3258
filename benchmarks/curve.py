"""The same curve: a network trained in fused chains and in PyTorch, from the same seeds, epoch by epoch.

MobileNetV2 of width 0.35 on Fashion-MNIST, 28² padded to 32². A seed decides the first weights and the order
of the images; the ways differ in rounding alone, which training makes larger, as it does between two orders.
So the difference of the ways' means is held against the spread over the seeds.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import click
import torch

import page
from ninefold import measure, surroundings, trainer
from ninefold.photos import Preparation

NETWORK = "mobilenetv2_035"
WAYS = {"PyTorch": {"fused": False}, "Ninefold": {}, "Ninefold, bfloat16": {"activations": "bfloat16"}}
# At 0.1 the loss leaps up now and then, in PyTorch as here: weights changed by a millionth end elsewhere.
_BATCH, _RATE = 128, 0.02
_POINTS = 0.3  # of accuracy, in per cent


@dataclass(frozen=True)
class Curve:
    """One run: what each epoch ended with, as metrics.jsonl has it."""

    way: str
    seed: int
    epochs: list[dict[str, float]]


def run(way: str, seed: int, data: trainer.Data, epochs: int, folder: Path) -> Curve:
    """Train one network."""
    import timm

    torch.manual_seed(seed)
    model = timm.create_model(NETWORK, num_classes=len(data.classes))
    output = folder / f"{way} {seed}"
    settings = trainer.Settings(epochs=epochs, batch=_BATCH, learning_rate=_RATE, seed=seed, **WAYS[way])
    torch._dynamo.reset()
    trainer.train(model, data, output, settings, resume=(output / "checkpoint.pt").exists())
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return Curve(way, seed, [json.loads(line) for line in lines])


def figures(curves: list[Curve]) -> str:
    """A row for each way and seed, and whether the ways' means differ by more than the seeds do."""
    rows = []
    for curve in curves:
        last = curve.epochs[-1]
        losses = " ".join(f"{epoch['loss']:.4f}" for epoch in curve.epochs)
        validation = " ".join(f"{epoch['validation_loss']:.4f}" for epoch in curve.epochs)
        accuracy = f"{100 * last['accuracy']:.2f} %"
        speed = f"{mean(epoch['images_per_second'] for epoch in curve.epochs):.0f}"
        rows.append([curve.way, str(curve.seed), losses, validation, accuracy, speed])
    head = ["", "seed", "loss, epoch by epoch", "validation loss", "accuracy", "images/s"]
    there = {curve.way for curve in curves}
    ours = [way for way in WAYS if way in there and way != "PyTorch"] if "PyTorch" in there else []
    verdicts = [verdict(curves, way) for way in ours]
    return "\n\n".join([page.table(head, rows), *verdicts])


def verdict(curves: list[Curve], way: str) -> str:
    """How far a way's mean accuracy and loss are from PyTorch's, and how far seeds are from each other."""
    words = []
    for name, unit in (("accuracy", 100.0), ("loss", 1.0)):
        theirs, ours = (_of(curves, each, name) for each in ("PyTorch", way))
        apart = unit * (mean(ours) - mean(theirs))
        spread = f"{unit * stdev(theirs):.4f}" if len(theirs) > 1 else "unknown with one seed"
        words.append(f"{name} {apart:+.4f} (spread over PyTorch's seeds: {spread})")
        if name == "accuracy":
            words[-1] += f", {'within' if abs(apart) <= _POINTS else '**outside**'} {_POINTS} points"
    return f"{way} against PyTorch at the end: {'; '.join(words)}."


def _of(curves: list[Curve], way: str, name: str) -> list[float]:
    return [curve.epochs[-1][name] for curve in curves if curve.way == way]


@click.command(help=__doc__)
@click.option("--data", default="/usr/share/datasets/fashion-mnist", show_default=True, help="Idx files.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--way", "ways", type=click.Choice(list(WAYS)), multiple=True, help="Only these.")
@click.option("--threads", type=click.IntRange(min=1))
@click.option("--runs", type=click.Path(path_type=Path), help="Keep the runs here; those begun are resumed.")
@click.option("--write", is_flag=True, help="Keep page and data in benchmarks/results.")
def main(
    data: str,
    seeds: int,
    epochs: int,
    ways: tuple[str, ...],
    threads: int | None,
    runs: Path | None,
    write: bool,
) -> None:
    """Train every way from every seed."""
    if threads:
        torch.set_num_threads(threads)
    images = trainer.open_folder(Path(data), Preparation())
    curves = []
    with tempfile.TemporaryDirectory() as passing:
        folder = runs or Path(passing)
        for seed in range(seeds):
            for way in ways or WAYS:
                curves.append(curve := run(way, seed, images, epochs, folder))
                last = curve.epochs[-1]
                told = f"loss {last['loss']:.4f}, accuracy {last['accuracy']:.4f}"
                print(f"{way}, seed {seed}: {told}", file=sys.stderr, flush=True)
    machine = surroundings.describe(measure.limits(torch.get_num_threads()))
    title = f"# {NETWORK} on Fashion-MNIST, {epochs} epochs\n\n`{page.command()}`"
    text = "\n\n".join([title, figures(curves), page.circumstances([machine])])
    page.publish("curve", text, write=write)
    if write:
        page.keep_data("curve", [machine], curves=[asdict(curve) for curve in curves])


if __name__ == "__main__":
    main()
