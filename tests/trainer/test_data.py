"""Folders of images: what is found, what it becomes, what is said of what cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ninefold.photos import Preparation
from ninefold.trainer import open_folder
from ninefold.trainer.data import Unreadable, collate

SMALL = Preparation(size=(16, 16))


def test_idx_files_plain_and_compressed(digits):
    data = open_folder(digits, SMALL)
    assert (len(data.training), len(data.validation), data.classes) == (48, 12, ("0", "1", "2"))
    image, label = data.training[4]
    assert image.shape == (3, 32, 32) and label == 1
    assert image[:, 11:21, 11:21].std() > 0
    zero = image[0, 0, 0]
    assert torch.equal(image[:, :11], zero.expand(3, 11, 32)), "zeros around the image"
    inside = torch.stack([data.training[at][0][0, 11:21, 11:21] for at in range(48)])
    assert abs(inside.mean()) < 1e-5 and abs(inside.std() - 1) < 1e-3
    assert open_folder(digits, SMALL, size=10).training[0][0].shape == (3, 10, 10)


def test_pictures_in_folders(pictures):
    data = open_folder(pictures, SMALL)
    assert (len(data.training), len(data.validation), data.classes) == (12, 4, ("cat", "dog"))
    image, label = data.validation[3]
    assert image.shape == (3, 16, 16) and label == 1
    assert image[2].mean() > image[0].mean(), "dogs are blue"
    assert open_folder(pictures / "train", SMALL, size=8).validation is None


def test_crops_follow_from_the_seed(pictures):
    examples = open_folder(pictures, SMALL).training
    examples.seed = "0 1"
    first = examples[3][0]
    assert torch.equal(examples[3][0], first)
    examples.seed = "0 2"
    assert not torch.equal(examples[3][0], first)


def test_a_picture_that_cannot_be_read(pictures):
    broken = pictures / "train" / "cat" / "0.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    examples = open_folder(pictures, SMALL).training
    image, _ = examples[0]
    assert isinstance(image, Unreadable) and str(broken) in image.reason
    images, labels, bad = collate([examples[0], examples[1], examples[11]])
    assert images.shape == (2, 3, 16, 16) and labels.tolist() == [0, 1] and bad == [image.reason]


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda f: (f / "train-labels-idx1-ubyte").unlink(), "must have the file train-labels-idx1-ubyte"),
        (lambda f: cut(f / "train-images-idx3-ubyte", 500), "must hold idx files of bytes, got .*images"),
        (lambda f: cut(f / "t10k-images-idx3-ubyte.gz", 500), "must hold idx files of bytes, got .*gz"),
        (lambda f: cut(f / "train-images-idx3-ubyte", 2), "must hold idx files of bytes"),
        (lambda f: shorten(f / "train-labels-idx1-ubyte"), "must have as many labels as images of train"),
    ],
)
def test_broken_idx_files(digits, break_it, words):
    break_it(digits)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        open_folder(digits, SMALL)


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


def shorten(path):
    labels = np.frombuffer(path.read_bytes()[8:], np.uint8)[:-1]
    path.write_bytes(bytes([0, 0, 8, 1]) + len(labels).to_bytes(4, "big") + labels.tobytes())


def test_other_folders(tmp_path, pictures):
    with pytest.raises(FileNotFoundError, match="`data` must be a folder that is there"):
        open_folder(tmp_path / "nowhere", SMALL)
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="must have pictures in one folder for each class, got none"):
        open_folder(tmp_path / "empty", SMALL)
    (pictures / "val" / "bird").mkdir()
    with pytest.raises(ValueError, match=r"must have the classes of train in val too, got \['bird'\]"):
        open_folder(pictures, SMALL)
