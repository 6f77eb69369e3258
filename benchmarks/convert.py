"""The whole conversion on Fashion-MNIST: train a standard network, convert it, distil it, and compare.

Beside it stands the same separable network from scratch, trained with labels for as many epochs as the
distillation takes. Each run (a network, a seed) is kept in build/convert as it ends, and its checkpoints on
the way, so that an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import conversion_page
import conversion_times
import page
from ninefold import convert, datasets, trainer
from ninefold.conversion import accuracy, distil, singular_values_alone
from ninefold.photos import Preparation
from small_networks import NETWORKS, WIDTH

FASHION = "/usr/share/datasets/fashion-mnist"
KEPT = Path(__file__).parents[1] / "build" / "convert"
PREPARATION = Preparation((28, 28), 1.0, (72.94,), (90.02,))
BATCH, BUDGET, CALIBRATION = 64, 0.25, 500
# Chosen on a VGG and the last 10,000 training images, kept apart: distilled for 4 epochs of 20,000 others it
# came to 88.5 % at 1e-3 (in batches of 128), 89.1 at 3e-3, 89.3 at 6e-3, where the original had 89.9.
RATE, STUDENT_RATE = 3e-3, 6e-3
LABELS = 1.0  # what labels count in distilling, beside the original's answers
FORMAT = torch.channels_last
_PARTS: dict[str, tuple[Tensor, Tensor]] = {}


class Pictures(trainer.Examples):
    """Images and labels in memory, a batch at a time."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        return list(zip(self.images[indices], self.labels[indices].tolist(), strict=True))


class Spoken(trainer.Tell):
    """Each epoch's loss, on stderr."""

    def result(self, values: dict[str, Any]) -> None:
        """Say it."""
        say(f"  epoch {values['epoch']}: loss {values['loss']:.4f}, {values['seconds']:.0f} s")


def train(model: nn.Module, data: Pictures, folder: Path, *, epochs: int, rate: float, seed: int) -> None:
    """Cross-entropy, Adam, a cosine from `rate` to 0: as distilling, with labels instead of a teacher."""
    if not finished(model, folder):
        settings = trainer.Settings(
            epochs=epochs,
            batch=BATCH,
            learning_rate=rate,
            weight_decay=0.0,
            warm_up=0,
            optimiser="adam",
            seed=seed,
        )
        classes = tuple(map(str, range(10)))
        given = trainer.Data(data, None, classes)
        trainer.train(model, given, folder, settings, resume=begun(folder), tell=Spoken())
        torch._dynamo.reset()
    model.eval()


def begun(folder: Path) -> bool:
    """Whether an interrupted run can be gone on with."""
    return (folder / "checkpoint.pt").is_file()


def finished(model: nn.Module, folder: Path) -> bool:
    """Whether a run has ended there; then `model` gets its weights."""
    kept = folder / "model.pt"
    if kept.is_file():
        model.load_state_dict(torch.load(kept, weights_only=True))
    return kept.is_file()


def percent(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Accuracy in percent."""
    return 100 * accuracy(model, zip(images.split(500), labels.split(500), strict=True))


def fresh(converted: nn.Module) -> nn.Module:
    """The same network with new weights."""
    made = copy.deepcopy(converted)
    for module in made.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.reset_parameters()
    return made.requires_grad_(True)


def run(network: str, seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One network, one seed: accuracies at each stage and what was converted; goes on where it stopped."""
    torch.manual_seed(seed)
    images, labels = (part[: options.images] for part in everything("train"))
    test, left_over = everything("test"), [part[options.images :] for part in everything("train")]
    data = Pictures(images, labels)
    original = NETWORKS[network]().to(memory_format=FORMAT)
    say(f"{network}, seed {seed}: the original")
    train(original, data, folder / "original", epochs=options.epochs, rate=RATE, seed=seed)
    found: dict[str, Any] = {"network": network, "seed": seed}
    found["original"] = percent(original, *test)
    result = convert(original, images[:1], images[:CALIBRATION], budget=BUDGET)
    found["singular_values"] = percent(singular_values_alone(result, original), *test)
    found["calibrated"] = percent(result.model, *test)
    found["ratio"] = float(result.ratio)
    found["terms"] = {layer.name: layer.terms for layer in result.layers}
    found["multiplications"] = result.multiplications
    say(f"  original {found['original']:.2f} %, calibrated {found['calibrated']:.2f} %; distilling")
    torch.manual_seed(1000 + seed)
    scratch = fresh(result.model)
    distilled = folder / "distilled"
    if not finished(result.model, distilled):
        distil(
            result.model,
            original,
            data,
            epochs=options.distil,
            layers=tuple(result.choices),
            batch=BATCH,
            learning_rate=STUDENT_RATE,
            labels=LABELS,
            seed=seed,
            output=distilled,
            resume=begun(distilled),
        )
        torch._dynamo.reset()
    found["distilled"] = percent(result.model, *test)
    say(f"  distilled {found['distilled']:.2f} %; from scratch")
    train(scratch, data, folder / "scratch", epochs=options.distil, rate=STUDENT_RATE, seed=seed)
    found["scratch"] = percent(scratch, *test)
    if len(left_over[1]):
        models = {"original": original, "distilled": result.model, "scratch": scratch}
        found["left_over"] = {name: percent(each, *left_over) for name, each in models.items()}
    return found


def facts(options: argparse.Namespace) -> dict[str, str]:
    """What the columns of the table are."""
    return {
        "data": f"Fashion-MNIST, {options.images:,} of 60,000 training images, all 10,000 test images",
        "original": f"a standard network, trained with labels for {options.epochs} epochs",
        "singular values alone": f"at most {BUDGET} of the convolutions' multiplications, nothing fitted",
        "calibrated": f"the same budget, terms fitted to {CALIBRATION} training images; no training",
        "distilled": f"then {options.distil} epochs of distillation from the original (T = 4, features 0.1), "
        f"with labels (weight {LABELS:g})",
        "left over": f"{60_000 - options.images:,} training images; nothing was trained on them, but the "
        "rate of the separable networks was chosen on 10,000 of them",
        "from scratch": f"the converted network, new weights, {options.distil} epochs with labels",
        "training": f"batch {BATCH}, Adam, a cosine from {RATE} to 0, from {STUDENT_RATE} for the separable "
        "networks; no augmentation",
    }


def everything(part: str) -> tuple[Tensor, Tensor]:
    """All images and labels of a part of Fashion-MNIST."""
    if part not in _PARTS:
        _PARTS[part] = _read(part)
    return _PARTS[part]


def _read(part: str) -> tuple[Tensor, Tensor]:
    arrays = datasets.load(FASHION, PREPARATION)[part == "test"]
    assert isinstance(arrays, datasets.Arrays)
    return arrays.batch(torch.arange(len(arrays)))


def say(text: str) -> None:
    """On stderr, as it happens."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Run what is missing, then print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, action="append", help="default: both")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=40_000, help="training images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--distil", type=int, default=4, help="epochs of distillation, and from scratch")
    parser.add_argument("--no-times", action="store_true", help="stop before the times are taken")
    parser.add_argument("--write", action="store_true", help="keep the page in benchmarks/results")
    options = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in range(options.seeds):
        for network in options.network or NETWORKS:
            key = f"{network}-{WIDTH}-{options.images}-{options.epochs}-{options.distil}-{seed}"
            file = KEPT / f"{key}.json"
            if not file.is_file():
                file.write_text(json.dumps(run(network, seed, KEPT / key, options)))
            runs.append(json.loads(file.read_text()))
            stages = ", ".join(f"{stage} {runs[-1][stage]:.2f}" for stage in conversion_page.STAGES)
            say(f"{network}, seed {seed}: {stages}")
    if options.no_times:
        return
    runs.sort(key=lambda each: (list(NETWORKS).index(each["network"]), each["seed"]))
    times = conversion_times.table(KEPT, BUDGET)
    text = conversion_page.report(runs, facts(options), times)
    page.publish("convert", text, write=options.write)


if __name__ == "__main__":
    main()
