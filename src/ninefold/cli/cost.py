"""`ninefold cost`: the definitions' table for one layer, on the terminal or as JSON."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from typing import Any

import click

from ninefold import cost
from ninefold.shape import Pair, output_size


class Size(click.ParamType):
    """A size on the command line: 14, or 14x28 for height × width."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Pair:
        """Return (height, width), both positive."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([0-9]+)(?:[x×]([0-9]+))?", str(value))
        if match is None:
            self.fail(f"{value!r} is not a size: write 14, or 14x28 for height x width.", param, ctx)
        size = int(match[1]), int(match[2] or match[1])
        if 0 in size:
            self.fail(f"{value!r} is not a size: it must be positive.", param, ctx)
        return size


@click.command()
@click.option("--in", "in_channels", type=click.IntRange(min=1), required=True, help="Input channels, M.")
@click.option("--out", "out_channels", type=click.IntRange(min=1), required=True, help="Output channels, N.")
@click.option("--kernel", type=Size(), required=True, help="Kernel size, Dk: 3, or 3x5 for height x width.")
@click.option("--size", type=Size(), help="Output size, Dg: 14, or 14x28 for height x width.")
@click.option(
    "--input-size", type=Size(), help="Input size, instead of --size; the output's follows from it."
)
@click.option("--stride", type=Size(), help="With --input-size: the stride.  [default: 1]")
@click.option("--padding", help="With --input-size: 1, valid, same or same_upper.  [default: 0]")
@click.option(
    "--multiplier", type=click.IntRange(min=1), default=1, show_default=True, help="Depth multiplier."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    in_channels: int,
    out_channels: int,
    kernel: Pair,
    size: Pair | None,
    input_size: Pair | None,
    stride: Pair | None,
    padding: str | None,
    multiplier: int,
    as_json: bool,
) -> None:
    """Count one layer, as a standard and as a separable convolution.

    Multiplications and parameters are exact, for one image, without biases. The size is the output's; give
    --input-size, with --stride and --padding, to have it computed.

    \b
    Example: ninefold cost --in 512 --out 1024 --kernel 3 --size 14
             ninefold cost --in 32 --out 64 --kernel 3x5 --input-size 112 --stride 2 --padding same_upper
    """
    if (size is None) == (input_size is None):
        raise click.UsageError("Give either '--size' or '--input-size'.")
    if size is not None and (stride is not None or padding is not None):
        raise click.UsageError("'--stride' and '--padding' go with '--input-size'; '--size' is the output's.")
    if size is None:
        sides = "0" if padding is None else padding
        size = output_size(
            input_size,
            kernel,
            stride=stride or 1,
            padding=int(sides) if re.fullmatch(r"-?[0-9]+", sides) else sides,
        )
    rows = cost.table(in_channels, out_channels, kernel, size, multiplier=multiplier)
    if as_json:
        layer = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kernel_size": kernel,
            "output_size": size,
            "multiplier": multiplier,
        }
        click.echo(json.dumps({**layer, "rows": [_plain(row) for row in rows]}, indent=2, ensure_ascii=False))
        return
    _print_table(rows)
    terms = f"1/{out_channels} + 1/{kernel[0] * kernel[1]}"
    terms = terms if multiplier == 1 else f"{multiplier} · ({terms})"
    click.echo(f"\nseparable / standard = {terms} = {_ratio(rows[-1].multiplications)}")


def _plain(row: cost.Row) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": row.name,
        "output": row.output,
        "multiplications": row.multiplications,
        "parameters": row.parameters,
    }
    for name, value in values.items():
        if isinstance(value, Fraction):
            values[name] = {
                "numerator": value.numerator,
                "denominator": value.denominator,
                "value": float(value),
            }
    return values


def _print_table(rows: tuple[cost.Row, ...]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    # Where the terminal is narrow, an exact number is folded rather than cut.
    table.add_column("one image", overflow="fold")
    for name in ("output", "multiplications", "parameters"):
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        output = "×".join(map(str, row.output)) if row.output else ""
        table.add_row(row.name, output, _number(row.multiplications), _number(row.parameters))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        # Whoever reads a file or a pipe has no width: one line a row.
        console.width = 10_000
    console.print(table)


def _number(value: int | Fraction) -> str:
    return str(value) if isinstance(value, Fraction) else f"{value:,}"


def _ratio(value: int | Fraction) -> str:
    return f"{value} = {float(value):.4g}"
