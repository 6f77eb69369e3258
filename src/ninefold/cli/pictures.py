"""The pictures of a conversion: how a network wants them, and which are for what."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ninefold.models import Network
    from ninefold.photos import Preparation

# A network that is tested on fewer pictures tells little, on more takes long.
_TESTED = 10_000


class Pictures:
    """Pictures to calibrate on, to distil on and to test on; the last two never meet."""

    def __init__(
        self,
        data: str | None,
        preparation: Preparation,
        images: int,
        epochs: int,
        batch: int,
        seed: int,
    ) -> None:
        self.calibration: Any = None
        self.training: Any = None
        self.test: Any = None
        self.tested = 0
        self.labelled = False
        if data is None:
            return
        import torch
        from torch.utils.data import DataLoader, Subset

        from ninefold import datasets

        first, second = datasets.load(data, preparation)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(first), generator=generator).tolist()
        if len(order) < images:
            raise ValueError(f"`images` must be at most {len(order)}, as many as there are, got {images}")
        kept = order
        test: Any = second
        if second is None:
            # One part for all: what is tested on is not learnt from.
            learnt = images if not epochs else max(images, len(order) * 4 // 5)
            kept, test = order[:learnt], Subset(first, order[learnt:])
        labelled = first.labelled and (second is None or second.labelled)
        self.labelled = first.labelled
        if labelled and len(test):
            self.tested = min(len(test), _TESTED)
            self.test = DataLoader(Subset(test, range(self.tested)), batch)
        self.calibration = DataLoader(Subset(first, kept[:images]), batch)
        self.training = Subset(first, kept)


def preparation(network: Network, mean: str | None, deviation: str | None) -> Preparation:
    """How the network wants its pictures: as its input is shaped, normalised as it or somebody says."""
    shape = tuple(getattr(network.examples[0], "shape", ()))
    if len(shape) != 4:
        raise ValueError(f"`model` must take pictures (batch, channels, height, width), got input {shape}")
    channels = shape[1]
    known = network.preparation
    if len(known.mean) != channels:
        # Nothing said how: values from 0 to 1.
        known = replace(known, mean=(0.0,) * channels, deviation=(255.0,) * channels)
    if network.inputs is not None and known.size != shape[2:]:
        known = replace(known, size=(shape[2], shape[3]), crop=1.0)
    return replace(
        known,
        mean=_numbers("mean", mean, channels) or known.mean,
        deviation=_numbers("deviation", deviation, channels) or known.deviation,
    )


def _numbers(name: str, text: str | None, channels: int) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        values = tuple(255 * float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"`{name}` must be numbers with commas between, got {text!r}") from None
    if len(values) not in (1, channels):
        raise ValueError(f"`{name}` must be one number or {channels}, got {text!r}")
    if name == "deviation" and min(values) <= 0:
        raise ValueError(f"`{name}` must be positive, got {text!r}")
    return values * channels if len(values) == 1 else values
