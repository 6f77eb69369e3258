"""Small folders of images that can be told apart, and a small network."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn


def idx(array: np.ndarray) -> bytes:
    """An idx file's bytes."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Idx files of three classes, told apart by brightness: 48 and 12 images of 10×10."""
    folder = tmp_path / "digits"
    folder.mkdir()
    chance = np.random.default_rng(0)
    for part, count in (("train", 48), ("t10k", 12)):
        labels = (np.arange(count) % 3).astype(np.uint8)
        images = (80 * labels[:, None, None] + chance.integers(0, 40, (count, 10, 10))).astype(np.uint8)
        if part == "train":
            (folder / "train-images-idx3-ubyte").write_bytes(idx(images))
        else:
            (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Picture files: train and val, cats and dogs, of colours of their own."""
    folder = tmp_path / "pictures"
    chance = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 2)):
        for name, colour in (("cat", (200, 40, 40)), ("dog", (40, 40, 200))):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.array(colour) + chance.integers(-30, 30, (20, 24, 3))
                picture = Image.fromarray(pixels.astype(np.uint8))
                picture.save(folder / part / name / f"{number}.{'png' if number % 2 else 'jpg'}")
    return folder


@pytest.fixture
def network() -> Callable[[], nn.Module]:
    """A separable network of three classes, always the same."""

    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.Dropout(0.1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        )

    return make
