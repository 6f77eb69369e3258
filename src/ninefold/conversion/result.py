"""What `convert` returns: the network, and what became of each of its convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from torch import nn

from ninefold.conversion.factors import Order
from ninefold.conversion.layers import Choice


@dataclass(frozen=True)
class Layer:
    """One convolution before and after; multiplications are for one image, biases are not counted.

    `terms` and `first` (the stage that runs first) are None where it stays, and `why` then says why. `error`
    is the mean square output error as a share of the outputs' variance where it was `calibrated`, else the
    share of the weights' energy that was dropped. `milliseconds` are those of the layer alone in Ninefold's
    kernels, before and after, where `timed` took them.
    """

    name: str
    terms: int | None
    first: Order | None
    multiplications: tuple[int, int]
    parameters: tuple[int, int]
    error: float = 0.0
    calibrated: bool = False
    why: str = ""
    milliseconds: tuple[float, float] | None = None

    @property
    def converted(self) -> bool:
        """Whether it is separable now."""
        return self.terms is not None

    @property
    def ratio(self) -> Fraction:
        """Multiplications, after / before."""
        return Fraction(self.multiplications[1], self.multiplications[0])


@dataclass(frozen=True)
class Conversion:
    """A converted network: `model`, ordinary PyTorch; `layers`, every convolution in the order they run.

    `notes` say what was done to the network as a whole. `milliseconds` (of the whole network, by what ran it)
    and `accuracies` (by stage, from 0 to 1) are empty until somebody took them.
    """

    model: nn.Module
    layers: tuple[Layer, ...]
    notes: tuple[str, ...] = ()
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    accuracies: Mapping[str, float] = field(default_factory=dict)

    @property
    def multiplications(self) -> tuple[int, int]:
        """The convolutions' multiplications for one image, before and after."""
        before, after = zip(*(layer.multiplications for layer in self.layers), strict=True)
        return sum(before), sum(after)

    @property
    def parameters(self) -> tuple[int, int]:
        """The convolutions' weights, before and after."""
        before, after = zip(*(layer.parameters for layer in self.layers), strict=True)
        return sum(before), sum(after)

    @property
    def ratio(self) -> Fraction:
        """The convolutions' multiplications, after / before."""
        before, after = self.multiplications
        return Fraction(after, before)

    @property
    def choices(self) -> Mapping[str, Choice]:
        """What each converted layer became."""
        return {
            layer.name: Choice(layer.first, layer.terms)
            for layer in self.layers
            if layer.terms is not None and layer.first is not None
        }

    def save(self, folder: str | Path) -> None:
        """Write `weights.safetensors` and `conversion.json` into the new folder `folder`.

        `load_converted(folder, model)` brings them back. Raises FileExistsError if there is something by that
        name; nothing is left behind where writing fails.
        """
        from ninefold.conversion.saving import save

        save(self, Path(folder))

    def summary(self) -> str:
        """Each convolution, what became of it and why, and the sums, as text."""
        from ninefold.conversion.summary import text

        return text(self)
