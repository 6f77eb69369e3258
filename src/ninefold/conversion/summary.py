"""A conversion as text."""

from __future__ import annotations

from ninefold.conversion.result import Conversion, Layer


def text(conversion: Conversion) -> str:
    """One line a convolution, then the sums, the notes, and what was measured."""
    width = max(len(layer.name) for layer in conversion.layers)
    lines = [_line(layer, width) for layer in conversion.layers]
    before, after = conversion.multiplications
    weights_before, weights_after = conversion.parameters
    lines.append(f"multiplications: {before:,} → {after:,}, {float(conversion.ratio):.4f} of them")
    lines.append(f"weights: {weights_before:,} → {weights_after:,}")
    lines += conversion.notes
    if conversion.accuracies:
        stages = (f"{stage} {100 * value:.2f} %" for stage, value in conversion.accuracies.items())
        lines.append(f"accuracy: {', '.join(stages)}")
    lines += [f"{name}: {value:.3f} ms" for name, value in conversion.milliseconds.items()]
    return "\n".join(lines)


def _line(layer: Layer, width: int) -> str:
    name = layer.name.ljust(width)
    if layer.terms is None:
        return f"{name}  stays: {layer.why}"
    kind = "output error" if layer.calibrated else "energy lost"
    terms = f"{layer.terms} term{'s' if layer.terms > 1 else ''}, {layer.first} first"
    line = f"{name}  {terms}: {float(layer.ratio):.4f} of the multiplications, {kind} {layer.error:.4f}"
    if layer.milliseconds is None:
        return line
    before, after = layer.milliseconds
    return f"{line}, {before:.3f} → {after:.3f} ms"
