"""A conversion as text."""

from __future__ import annotations

from ninefold.conversion.result import Conversion, Layer


def text(conversion: Conversion) -> str:
    """One line a convolution, then the sums and the notes."""
    width = max(len(layer.name) for layer in conversion.layers)
    lines = [_line(layer, width) for layer in conversion.layers]
    before, after = conversion.multiplications
    weights_before, weights_after = conversion.parameters
    lines.append(f"multiplications: {before:,} → {after:,}, {float(conversion.ratio):.4f} of them")
    lines.append(f"weights: {weights_before:,} → {weights_after:,}")
    return "\n".join([*lines, *conversion.notes])


def _line(layer: Layer, width: int) -> str:
    name = layer.name.ljust(width)
    if layer.terms is None:
        return f"{name}  stays: {layer.why}"
    kind = "output error" if layer.calibrated else "energy lost"
    terms = f"{layer.terms} term{'s' if layer.terms > 1 else ''}, {layer.first} first"
    return f"{name}  {terms}: {float(layer.ratio):.4f} of the multiplications, {kind} {layer.error:.4f}"
