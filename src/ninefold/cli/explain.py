"""`ninefold explain`: the eight pictures for one layer, as a page or as files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click


@click.command()
@click.option("--in", "in_channels", type=click.IntRange(min=1), required=True, help="Input channels, M.")
@click.option("--out", "out_channels", type=click.IntRange(min=1), required=True, help="Output channels, N.")
@click.option("--kernel", type=click.IntRange(min=1), required=True, help="Kernel size, Dk.")
@click.option("--size", type=click.IntRange(min=1), required=True, help="Output size, Dg.")
@click.option("--stride", type=click.IntRange(min=1), default=1, show_default=True, help="Stride.")
@click.option(
    "--padding", default="same", show_default=True, help="same, valid, or a number of pixels per side."
)
@click.option(
    "--multiplier", type=click.IntRange(min=1), default=1, show_default=True, help="Depth multiplier."
)
@click.option(
    "--lang",
    "language",
    type=click.Choice(["en", "zh"]),
    default="en",
    show_default=True,
    help="English or Chinese.",
)
@click.option(
    "-o",
    "--output",
    default="explain.html",
    show_default=True,
    help="A page (.html), or a folder for the eight pictures.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the layer's counts and the files.")
def command(
    in_channels: int,
    out_channels: int,
    kernel: int,
    size: int,
    stride: int,
    padding: str,
    multiplier: int,
    language: str,
    output: str,
    as_json: bool,
) -> None:
    """Explain one layer: why it is cheap as a separable convolution, and when not.

    Writes one HTML page with eight pictures, sliders, the computation step by step and a table, which needs
    no network; or, into a folder, the eight pictures as SVG.

    \b
    Example: ninefold explain --in 512 --out 1024 --kernel 3 --size 14 -o page.html
             ninefold explain --in 32 --out 64 --kernel 3 --size 112 --lang zh -o pictures/
    """
    from ninefold import explanation

    made = explanation.explain(
        in_channels,
        out_channels,
        kernel,
        size,
        stride=stride,
        padding=int(padding) if re.fullmatch(r"-?[0-9]+", padding) else padding,
        multiplier=multiplier,
        language=language,
    )
    files = made.save(output)
    if as_json:
        click.echo(json.dumps(_plain(made.layer, files), indent=2, ensure_ascii=False))
        return
    where = files[0] if len(files) == 1 else Path(output)
    click.echo(f"{'page' if len(files) == 1 else 'pictures'}: {where.resolve()}")


def _plain(layer: Any, files: list[Path]) -> dict[str, Any]:
    from dataclasses import asdict

    from ninefold import cost

    channels = layer.in_channels, layer.out_channels, layer.kernel_size, layer.output_size
    both = cost.compare(*channels, multiplier=layer.multiplier)
    return {
        "layer": asdict(layer),
        "standard": asdict(both.standard),
        "separable": asdict(both.separable),
        "ratio": float(both.ratio),
        "files": [str(path.resolve()) for path in files],
    }
