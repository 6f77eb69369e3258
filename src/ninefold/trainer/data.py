"""Images from a folder: one subfolder for each class, or MNIST's idx files, plain or compressed."""

from __future__ import annotations

import dataclasses
import gzip
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ninefold import photos

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff"}
_IDX = "{part}-images-idx3-ubyte", "{part}-labels-idx1-ubyte"
# A random crop keeps this share of the area, at least and at most, and may be this much out of proportion.
_AREA, _ASPECT = (0.35, 1.0), 4 / 3


@dataclass(frozen=True)
class Unreadable:
    """A picture that cannot be read; `reason` names it."""

    reason: str


class Examples(Dataset[Any]):
    """Images with their labels. Random crops follow from `seed`, which changes with the epoch."""

    seed = ""

    def __len__(self) -> int:
        raise NotImplementedError


@dataclass(frozen=True)
class Data:
    """What there is to learn from, and to test with; the classes are in the order of the labels."""

    training: Examples
    validation: Examples | None
    classes: tuple[str, ...]


class Pictures(Examples):
    """Picture files, each (path, label), brought to a network's preparation; cropped at random if `crop`."""

    def __init__(
        self, files: Sequence[tuple[Path, int]], preparation: photos.Preparation, *, crop: bool
    ) -> None:
        self.files, self.preparation, self.crop = files, preparation, crop

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor | Unreadable, int]:
        path, label = self.files[index]
        try:
            picture = photos.read(path)
        except ValueError as error:
            return Unreadable(str(error)), label
        preparation = self.preparation
        if self.crop:
            picture = _random_crop(picture, random.Random(f"{self.seed} {index}"))
            preparation = dataclasses.replace(preparation, crop=1.0)
        return photos.prepare(picture, preparation)[0], label


class Grey(Examples):
    """Grey images (count, height, width) as three equal channels, zeros around them up to `size`."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, size: tuple[int, int], scale: Any) -> None:
        self.images, self.labels, self.size = images, labels, size
        self.mean, self.deviation = scale

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor | Unreadable, int]:
        image = torch.from_numpy(self.images[index].astype(np.float32))
        height, width = (wanted - own for wanted, own in zip(self.size, image.shape, strict=True))
        around = (width // 2, width - width // 2, height // 2, height - height // 2)
        image = (torch.nn.functional.pad(image, around) - self.mean) / self.deviation
        return image.expand(3, -1, -1), int(self.labels[index])


def open_folder(folder: Path, preparation: photos.Preparation, *, size: int | None = None) -> Data:
    """Find the images of a folder.

    FOLDER/CLASS/PICTURE, or FOLDER/train/CLASS/PICTURE with FOLDER/val beside it (or validation, or test), or
    MNIST's four files (train-images-idx3-ubyte and so on, plain or .gz). Pictures come in the network's size,
    idx images in the next multiple of 32, unless `size` says otherwise.

    Raises FileNotFoundError for a folder that is not there, ValueError for one without images or whose parts
    disagree.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"`data` must be a folder that is there, got {str(folder)!r}")
    if _idx(folder, _IDX[0].format(part="train")) is not None:
        return _open_idx(folder, size)
    if size is not None:
        preparation = dataclasses.replace(preparation, size=(size, size))
    inside = folder / "train" if (folder / "train").is_dir() else folder
    classes = tuple(sorted(path.name for path in inside.iterdir() if path.is_dir()))
    training = list(_pictures(inside, classes))
    if not training:
        raise ValueError(
            f"`data` must have pictures in one folder for each class, got none in {str(inside)!r}"
        )
    validation = None
    for name in ("val", "validation", "test"):
        if inside is not folder and (folder / name).is_dir():
            strangers = {path.name for path in (folder / name).iterdir() if path.is_dir()} - set(classes)
            if strangers:
                raise ValueError(
                    f"`data` must have the classes of train in {name} too, got {sorted(strangers)}"
                )
            validation = Pictures(list(_pictures(folder / name, classes)), preparation, crop=False)
            break
    return Data(Pictures(training, preparation, crop=True), validation, classes)


def collate(
    examples: Sequence[tuple[Tensor | Unreadable, int]],
) -> tuple[Tensor, Tensor, list[str]]:
    """A batch of what could be read: images, labels; and what is wrong with the rest."""
    good = [(image, label) for image, label in examples if isinstance(image, Tensor)]
    bad = [image.reason for image, _ in examples if isinstance(image, Unreadable)]
    images = torch.stack([image for image, _ in good]) if good else torch.empty(0, 3, 1, 1)
    return images, torch.tensor([label for _, label in good], dtype=torch.int64), bad


def _pictures(folder: Path, classes: Sequence[str]) -> Iterator[tuple[Path, int]]:
    for label, name in enumerate(classes):
        for path in sorted((folder / name).rglob("*")):
            if path.suffix.lower() in _SUFFIXES and path.is_file():
                yield path, label


def _random_crop(picture: Any, chance: random.Random) -> Any:
    """A part of a picture, of random area and proportions, perhaps mirrored."""
    from PIL import ImageOps

    area = picture.width * picture.height * chance.uniform(*_AREA)
    aspect = _ASPECT ** chance.uniform(-1, 1)
    width = min(picture.width, max(1, round((area * aspect) ** 0.5)))
    height = min(picture.height, max(1, round((area / aspect) ** 0.5)))
    left, top = chance.randint(0, picture.width - width), chance.randint(0, picture.height - height)
    part = picture.crop((left, top, left + width, top + height))
    return ImageOps.mirror(part) if chance.random() < 0.5 else part


def _open_idx(folder: Path, size: int | None) -> Data:
    images, labels = _read_pair(folder, "train")
    side = size or 32 * -(-max(images.shape[1:]) // 32)
    if side < max(images.shape[1:]):
        raise ValueError(f"`size` must be at least {max(images.shape[1:])}, that of the images, got {side}")
    scale = float(images.mean()), float(images.std()) or 1.0
    training = Grey(images, labels, (side, side), scale)
    validation = None
    if _idx(folder, _IDX[0].format(part="t10k")) is not None:
        validation = Grey(*_read_pair(folder, "t10k"), (side, side), scale)
    return Data(training, validation, tuple(str(number) for number in range(int(labels.max()) + 1)))


def _read_pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (_read_idx(folder, name.format(part=part)) for name in _IDX)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not len(images):
        got = f"shapes {images.shape} and {labels.shape}"
        raise ValueError(f"`data` must have as many labels as images of {part}, got {got}")
    return images, labels


def _idx(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_idx(folder: Path, name: str) -> np.ndarray:
    """The array of an idx file: 0, 0, the type (8: bytes), the rank, the sizes (big-endian), the values."""
    path = _idx(folder, name)
    if path is None:
        raise FileNotFoundError(f"`data` must have the file {name} (or .gz), got none in {str(folder)!r}")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        rank = content[3]
        sizes = np.frombuffer(content, ">u4", rank, 4)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
        if content[:3] != b"\0\0\x08":
            raise ValueError("it does not begin as such a file of bytes does")
        return values.reshape(sizes.astype(int))
    except (OSError, EOFError, IndexError, ValueError) as error:
        raise ValueError(f"`data` must hold idx files of bytes, got {str(path)!r}: {error}") from None
