"""A conversion on the terminal: tables, or JSON."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ninefold.conversion import Conversion


def show(found: Conversion, *, trained: bool, tested: int, output: Path | None) -> None:
    """Print tables: each layer, the whole, accuracies on `tested` pictures, times, where it was saved."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 10_000
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("layer")
    timed = any(layer.milliseconds for layer in found.layers)
    for name in (
        "terms",
        "multiplications",
        "becomes",
        "share",
        "error",
        *(("ms", "becomes") if timed else ()),
    ):
        table.add_column(name, justify="right")
    for layer in found.layers:
        before, after = layer.multiplications
        if not layer.converted:
            table.add_row(layer.name, "", f"{before:,}", layer.why)
            continue
        share, error = f"{float(layer.ratio):.3f}", f"{layer.error:.4f}"
        times = [f"{each:.3f}" for each in layer.milliseconds or ()]
        kind = f"{layer.terms}" if layer.first == "depthwise" else f"{layer.terms}, pointwise first"
        table.add_row(layer.name, kind, f"{before:,}", f"{after:,}", share, error, *times)
    before, after = found.multiplications
    table.add_row("all convolutions", "", f"{before:,}", f"{after:,}", f"{float(found.ratio):.3f}")
    console.print(table)
    calibrated = any(layer.calibrated for layer in found.layers)
    of = "its outputs' variance" if calibrated else "its weights' energy, in dropped singular values"
    note = "; ms: the layer alone, in Ninefold's kernels" if timed else ""
    console.print(f"error: a layer's, as a share of {of}{note}")
    for line in found.notes:
        console.print(line)
    if found.accuracies:
        stages = ", ".join(f"{stage} {100 * value:.2f} %" for stage, value in found.accuracies.items())
        console.print(f"accuracy on {tested:,} other pictures: {stages}")
    if found.milliseconds:
        console.print("one run of the whole network, ms:")
        for name, value in found.milliseconds.items():
            console.print(f"  {name}: {value:.3f}")
    if not trained:
        console.print("the weights are random: errors and accuracies mean nothing, counts and times are real")
    if output is not None:
        console.print(f"saved: {output.resolve()}", soft_wrap=True)


def plain(found: Conversion, name: str, output: Path | None) -> dict[str, object]:
    """The same as data for JSON; `name` is the network's."""
    return {
        "network": name,
        "layers": [dataclasses.asdict(layer) for layer in found.layers],
        "multiplications": found.multiplications,
        "parameters": found.parameters,
        "ratio": float(found.ratio),
        "accuracies": dict(found.accuracies),
        "milliseconds": dict(found.milliseconds),
        "notes": found.notes,
        "saved": None if output is None else str(output.resolve()),
    }
