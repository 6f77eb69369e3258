"""Folders of pictures: MNIST's kind of files, classes in subfolders, and what is damaged."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from ninefold import datasets
from ninefold.photos import Preparation

GREY = Preparation((4, 4), 1.0, (100.0,), (50.0,))
PIXELS = torch.arange(3 * 16, dtype=torch.uint8).reshape(3, 4, 4)


def idx(numbers: torch.Tensor) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in numbers.shape)
    return bytes([0, 0, 8, numbers.dim()]) + sizes + bytes(numbers.flatten().tolist())


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    for part, count in (("train", 3), ("t10k", 2)):
        images, labels = idx(PIXELS[:count]), idx(torch.arange(count, dtype=torch.uint8))
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return tmp_path


def test_mnists_kind_of_files_have_two_parts(mnist: Path) -> None:
    train, test = datasets.load(mnist, GREY)
    assert test is not None and (len(train), len(test)) == (3, 2)
    image, label = train[1]
    assert label == 1 and torch.allclose(image, (PIXELS[1:2].float() - 100) / 50)
    assert isinstance(train, datasets.Arrays) and train.labelled
    images, labels = train.batch([2, 0])
    assert images.shape == (2, 1, 4, 4) and labels.tolist() == [2, 0]


def test_grey_pictures_become_what_the_network_takes(mnist: Path) -> None:
    wide = Preparation((8, 8), 1.0, (0.0, 100.0, 0.0), (1.0, 50.0, 2.0))
    image, _ = datasets.load(mnist, wide)[0][0]
    assert image.shape == (3, 8, 8)
    assert torch.allclose(image[1] * 50 + 100, image[0]) and torch.allclose(image[2] * 2, image[0])


def test_classes_are_subfolders_and_parts_too(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for name in ("train/cat/1.png", "train/dog/2.png", "test/dog/3.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(PIXELS[0].numpy()).save(path)
    train, test = datasets.load(tmp_path, GREY)
    assert test is not None and (len(train), len(test)) == (2, 1) and train.labelled
    got, label = train[1]
    assert label == 1 and got.shape == (1, 4, 4) and torch.allclose(got, (PIXELS[:1].float() - 100) / 50)
    alone, nothing = datasets.load(tmp_path / "train" / "cat", GREY)
    assert nothing is None and len(alone) == 1 and not alone.labelled


def test_what_is_damaged_or_not_there_is_refused(mnist: Path) -> None:
    images, labels = mnist / "train-images-idx3-ubyte.gz", mnist / "train-labels-idx1-ubyte"
    whole = images.read_bytes()
    with pytest.raises(FileNotFoundError, match="`data` must be a folder that is there, or 'digits', got"):
        datasets.load(mnist / "absent", GREY)
    images.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"`data` must hold files that can be read, got train-images"):
        datasets.load(mnist, GREY)
    images.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    with pytest.raises(ValueError, match="which is not one or is cut"):
        datasets.load(mnist, GREY)
    images.write_bytes(whole)
    labels.write_bytes(idx(torch.zeros(2, dtype=torch.uint8)))
    with pytest.raises(ValueError, match="`data` must hold as many labels as images, got 3 and 2 in"):
        datasets.load(mnist, GREY)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_an_idx_file_that_declares_more_than_it_holds_is_refused_before_memory_is_taken(
    mnist: Path, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = bytes([0, 0, 8, 3]) + b"\xff\xff\xff\xff" * 3
    (mnist / "train-images-idx3-ubyte.gz").unlink()
    name = "train-images-idx3-ubyte" + ".gz" * packed
    for content in (head, head + bytes(100), idx(PIXELS) + b"x", idx(PIXELS)[:-1], head[:7], b""):
        (mnist / name).write_bytes(gzip.compress(content) if packed else content)
        with pytest.raises(ValueError, match=r"`data` must hold idx files of bytes, got .*not one or is cut"):
            datasets.load(mnist, GREY)
    if packed:
        for content in (gzip.compress(idx(PIXELS))[:-9], b"\x1f\x8b" + bytes(40), b"nothing"):
            (mnist / name).write_bytes(content)
            with pytest.raises(
                ValueError, match=r"`data` must hold (files that can be read|idx files of bytes)"
            ):
                datasets.load(mnist, GREY)
