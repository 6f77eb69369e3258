"""A photograph: from a file, to what a network takes, and small enough to put into a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

SAMPLES = ("chelsea", "coffee")


@dataclass(frozen=True)
class Preparation:
    """How a network wants its input: `crop` is the share of the shorter side that the centre square keeps.

    Values are (v - mean) / deviation per channel, for v from 0 to 255; one channel is grey.
    """

    size: tuple[int, int] = (224, 224)
    crop: float = 0.875
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    deviation: tuple[float, ...] = (58.395, 57.12, 57.375)


def read(image: str | Path) -> Image:
    """Open a picture, upright and in RGB; `chelsea` and `coffee` are scikit-image's photographs.

    Raises FileNotFoundError for what is not there, ValueError for what is not a picture, ImportError without
    Pillow.
    """
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError:
        raise ImportError("reading a picture needs Pillow: pip install pillow") from None
    path = sample(str(image)) if str(image) in SAMPLES else Path(image)
    if not path.is_file():
        known = " and ".join(SAMPLES)
        raise FileNotFoundError(f"`image` must be a file ({known} are built in), got {str(image)!r}")
    try:
        with PIL.Image.open(path) as opened:
            return PIL.ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # Pillow's readers let through whatever a damaged file makes of them
        words = " ".join(f"{error or type(error).__name__}".split())[:300]
        raise ValueError(f"`image` must be a picture that can be read, got {str(image)!r}: {words}") from None


def sample(name: str) -> Path:
    """The file of one of the photographs that scikit-image carries."""
    from importlib.util import find_spec

    found = find_spec("skimage")
    if found is None or found.origin is None:
        raise ImportError(f"the photograph {name!r} comes with scikit-image: pip install scikit-image")
    return Path(found.origin).parent / "data" / f"{name}.png"


def prepare(picture: Image, preparation: Preparation) -> torch.Tensor:
    """The centre of `picture` as (1, channels, height, width) float32, resized with a bicubic filter."""
    import numpy as np
    import torch
    from PIL.Image import Resampling

    height, width = preparation.size
    # The largest centred window of the wanted proportions, times the share that is kept.
    scale = min(picture.width / width, picture.height / height) * preparation.crop
    across, down = width * scale, height * scale
    left, top = (picture.width - across) / 2, (picture.height - down) / 2
    window = picture.resize((width, height), Resampling.BICUBIC, box=(left, top, left + across, top + down))
    mean, deviation = (np.array(v, dtype=np.float32) for v in (preparation.mean, preparation.deviation))
    if len(preparation.mean) == 1:
        window = window.convert("L")
    values = (np.asarray(window, dtype=np.float32).reshape(height, width, -1) - mean) / deviation
    return torch.from_numpy(values).permute(2, 0, 1)[None].contiguous()


def as_data_uri(picture: Image, *, longest_side: int = 640) -> str:
    """A small JPEG of `picture` that a page can hold in itself."""
    small = picture.copy()
    small.thumbnail((longest_side, longest_side))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
