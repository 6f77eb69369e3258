from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ninefold import photos


def test_the_centre_is_kept_whatever_the_shape() -> None:
    wide = np.zeros((40, 100, 3), dtype=np.uint8)
    wide[:, 30:70] = 255  # the centre square is white, the sides are black
    plain = photos.Preparation(size=(8, 8), crop=1.0, mean=(0, 0, 0), deviation=(1, 1, 1))
    for picture in (wide, wide.transpose(1, 0, 2)):
        prepared = photos.prepare(Image.fromarray(np.ascontiguousarray(picture)), plain)
        assert prepared.shape == (1, 3, 8, 8) and prepared.dtype == torch.float32
        # The filter reaches a little beyond the square at its edge.
        assert bool((prepared[..., 1:-1, 1:-1] == 255).all()) and prepared.min() > 200


def test_crop_mean_and_deviation() -> None:
    framed = np.full((100, 100, 3), (10, 20, 30), dtype=np.uint8)
    framed[10:90, 10:90] = (110, 120, 130)
    preparation = photos.Preparation(size=(4, 6), crop=0.5, mean=(100, 100, 100), deviation=(10, 20, 30))
    prepared = photos.prepare(Image.fromarray(framed), preparation)
    assert prepared.shape == (1, 3, 4, 6)
    assert prepared[0, :, 0, 0].tolist() == [1.0, 1.0, 1.0]


def test_a_picture_is_upright_and_rgb(tmp_path: Path) -> None:
    file = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", (20, 10)).save(file, exif=exif)
    picture = photos.read(file)
    assert picture.mode == "RGB" and picture.size == (10, 20)


@pytest.mark.parametrize("name", photos.SAMPLES)
def test_samples_are_photographs(name: str) -> None:
    assert min(photos.read(name).size) >= 300


def test_what_is_not_a_picture_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`image` must be a file.*chelsea.*got .*absent\.png"):
        photos.read(tmp_path / "absent.png")
    with pytest.raises(FileNotFoundError, match="`image` must be a file"):
        photos.read(tmp_path)
    words = tmp_path / "words.png"
    words.write_text("hello")
    with pytest.raises(ValueError, match=r"`image` must be a picture that can be read, got .*words\.png"):
        photos.read(words)
    cut = tmp_path / "cut.png"
    cut.write_bytes(photos.sample("coffee").read_bytes()[:5000])
    with pytest.raises(ValueError, match="`image` must be a picture that can be read"):
        photos.read(cut)


def test_a_page_gets_a_small_jpeg() -> None:
    uri = photos.as_data_uri(photos.read("coffee"), longest_side=100)
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) == 100


def test_without_pillow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match="pip install pillow"):
        photos.read("chelsea")
