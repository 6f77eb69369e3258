from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ninefold import trainer
from ninefold.trainer.data import Grey


@pytest.fixture
def curve() -> ModuleType:
    return import_module("curve")


def made(curve: ModuleType, way: str, seed: int, accuracy: float) -> object:
    epoch = {"loss": 0.5, "validation_loss": 0.6, "accuracy": accuracy, "images_per_second": 100.0}
    return curve.Curve(way, seed, [epoch])


def test_the_ways_are_held_against_the_seeds(curve: ModuleType) -> None:
    curves = [made(curve, "PyTorch", seed, 0.80 + 0.001 * seed) for seed in range(3)]
    curves += [made(curve, "Ninefold", seed, 0.802 + 0.001 * seed) for seed in range(3)]
    words = "accuracy +0.2000 (spread over PyTorch's seeds: 0.1000), within 0.3 points"
    assert words in curve.verdict(curves, "Ninefold")
    assert words in curve.figures(curves)
    assert "against" not in curve.figures(curves[3:])
    far = [made(curve, "Ninefold", seed, 0.7) for seed in range(3)]
    assert "**outside** 0.3 points" in curve.verdict(curves[:3] + far, "Ninefold")


def test_both_ways_learn_alike(curve: ModuleType, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    labels = np.arange(128, dtype=np.uint8) % 2
    images = (120 * labels[:, None, None] + chance.integers(0, 40, (128, 28, 28))).astype(np.uint8)
    examples = Grey(images, labels, (32, 32), (80.0, 60.0))
    data = trainer.Data(examples, examples, ("0", "1"))
    first, second = (curve.run(way, 0, data, 1, tmp_path) for way in ("PyTorch", "Ninefold"))
    assert first.epochs[0]["loss"] == pytest.approx(second.epochs[0]["loss"], abs=1e-4)
