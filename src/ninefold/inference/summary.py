"""What became of each layer of a network, as data and as text."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

HOW = {
    "fused": "in fused kernels",
    "kernel": "in kernels of their own",
    "pytorch": "in PyTorch",
}


@dataclass(frozen=True)
class Layer:
    """A layer, or a pair that runs as one: what became of it ("fused", "kernel" or "pytorch") and why.

    `multiplications` are those for the example inputs. `choice` says what the forms that it can take cost, by
    estimate or by measurement: the kernels between two bars are one call.
    """

    name: str
    how: str
    why: str
    multiplications: int
    choice: str = ""


def shares(layers: tuple[Layer, ...]) -> dict[str, Fraction]:
    """Share of the multiplications that run fused, in single kernels and in PyTorch, exactly."""
    total = sum(layer.multiplications for layer in layers)
    return {
        how: Fraction(sum(layer.multiplications for layer in layers if layer.how == how), max(total, 1))
        for how in HOW
    }


def text(layers: tuple[Layer, ...], notes: tuple[str, ...] = ()) -> str:
    """A table of the layers, then the shares."""
    rows = [("layer", "runs", "multiplications", "what, or why not")]
    rows += [
        (layer.name, layer.how, f"{layer.multiplications:,}".replace(",", " "), _said(layer))
        for layer in layers
    ]
    first, second, third = (max(len(row[column]) for row in rows) for column in range(3))
    lines = [f"{a:<{first}}  {b:<{second}}  {c:>{third}}  {d}".rstrip() for a, b, c, d in rows]
    told = [f"{float(share):.1%} {HOW[how]}" for how, share in shares(layers).items()]
    return "\n".join([*lines, "", "multiplications: " + ", ".join(told), *notes])


def _said(layer: Layer) -> str:
    return f"{layer.why}; {layer.choice}" if layer.choice else layer.why
