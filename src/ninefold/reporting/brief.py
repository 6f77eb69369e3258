"""A report on a terminal: the three lines, where the time goes, the layers that take most of it, what if."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from . import words
from .facts import Report
from .page import percent

_MOST = 8


def as_text(report: Report) -> str:
    """The report as plain text."""
    file = io.StringIO()
    Console(file=file, width=110, highlight=False, markup=False, color_system=None).print(brief(report))
    return file.getvalue()


def brief(report: Report) -> RenderableType:
    """The report for a console without markup."""
    parts: list[RenderableType] = [Text(report.network, "bold")]
    for figures, rest in words.lines(report):
        parts.append(
            Text.assemble((figures, "bold"), f": {rest}" if rest.startswith("it has") else f" {rest}")
        )
    parts += [Text(note, "yellow") for note in report.notes]
    parts += [_layers(report), _shares(report)]
    if report.swaps:
        parts += [_swaps(report), Text(words.together(report))]
    if report.could_save and report.convert:
        parts.append(Text(f"to convert it: {report.convert}"))
    if report.unfused:
        reasons = (f"{why} ({len(blocks)})" for why, blocks in report.reasons.items())
        count = len(report.unfused)
        named = "1 layer runs" if count == 1 else f"{count} layers run"
        parts.append(Text(f"\n{named} in PyTorch: {'; '.join(reasons)}"))
    return Group(*parts)


def _layers(report: Report) -> Table:
    table = _table("Its slowest layers in PyTorch", "layer", "kind")
    for name in ("multiplications", "op/byte", "time", "limit", "of peak"):
        table.add_column(name, justify="right")
    for row in sorted(report.rows, key=lambda row: -row.seconds)[:_MOST]:
        share = report.share_of_peak(row)
        table.add_row(
            row.name,
            f"{row.kind} {row.what}",
            f"{row.multiplications:,}",
            f"{row.intensity:.3g}",
            words.ms(row.seconds),
            f"{words.ms(row.limit.seconds)} {row.limit.bound}",
            "–" if share is None else percent(share),
        )
    return table


def _shares(report: Report) -> Table:
    table = _table("Where the time goes", "PyTorch")
    for name in ("time", "share"):
        table.add_column(name, justify="right")
    table.add_column("Ninefold")
    for name in ("time", "share"):
        table.add_column(name, justify="right")
    sides = [
        [(each.kind, words.ms(each.seconds), percent(each.seconds / total)) for each in some[:_MOST]]
        for some in (report.shares, report.steps)
        if (total := sum(each.seconds for each in some) or 1.0)
    ]
    for index in range(max(map(len, sides))):
        row = [side[index] if index < len(side) else ("", "", "") for side in sides]
        table.add_row(*row[0], *row[1])
    return table


def _swaps(report: Report) -> Table:
    title = "What its separable convolutions save" if report.is_separable else "What if these were separable"
    table = _table(title, "layer", "shape")
    for name in ("fewer", "predicted", "Ninefold", "PyTorch"):
        table.add_column(name, justify="right")
    for swap in report.swaps[:_MOST]:
        factors = (float(1 / swap.ratio), swap.predicted_factor, swap.measured_factor, swap.pytorch_factor)
        table.add_row(swap.name, swap.what, *(words.times(each) for each in factors))
    table.caption = "fewer multiplications; how many times as fast, each layer alone: predicted, measured"
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", caption_justify="left", box=box.SIMPLE_HEAD
    )
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
