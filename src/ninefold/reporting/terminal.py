"""The same data on a terminal, as tables, for a console without markup: names may hold brackets."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .data import FATES, Examination, Machine
from .page import percent


def examination(it: Examination) -> RenderableType:
    """One network on one photograph: what it saw, what it costs, how long it took."""
    parts: list[RenderableType] = [_guesses(it), _counts(it), _times(it), _fates(it)]
    if not it.trained:
        parts.insert(0, Text("random weights: the guesses mean nothing, times and counts are real", "yellow"))
    return Group(*parts)


def limits(machine: Machine) -> str:
    """The two limits in one line."""
    memory = ", ".join(f"{each.level} {each.gigabytes_per_second:.1f}" for each in machine.bandwidths)
    return f"peak {machine.gflops:.1f} GFLOP/s, memory {memory} GB/s, with {_threads(machine.threads)}"


def _guesses(it: Examination) -> Table:
    table = _table(f"What {it.network} sees in {it.photo}")
    table.add_column(it.best_plain.name)
    table.add_column("", justify="right")
    table.add_column(it.ninefold.name)
    table.add_column("", justify="right")
    for plain, fast in zip(it.best_plain.guesses, it.ninefold.guesses, strict=True):
        style = "" if plain.index == fast.index else "red"
        row = [f"{plain.name} ({plain.index})", percent(plain.probability)]
        table.add_row(*row, f"{fast.name} ({fast.index})", percent(fast.probability), style=style)
    table.caption = f"largest difference: {it.logit_difference:.1e} of the logits' range"
    return table


def _counts(it: Examination) -> Table:
    table = _table("What it costs, exactly, for one image")
    table.add_column("")
    for name in ("as built", "with standard convolutions", "ratio"):
        table.add_column(name, justify="right")
    count, ratios = it.count, (it.count.multiplications_ratio, it.count.parameters_ratio)
    for name, built, standard, ratio in (
        ("multiplications", count.multiplications, count.standard_multiplications, ratios[0]),
        ("parameters", count.parameters, count.standard_parameters, ratios[1]),
    ):
        table.add_row(name, f"{built:,}", f"{standard:,}", f"{float(ratio):.4f}")
    table.caption = f"{count.pairs} depthwise→pointwise pairs, each against one standard convolution"
    return table


def _times(it: Examination) -> Table:
    table = _table(f"How long it takes, with {_threads(it.machine.threads)}")
    table.add_column("")
    for name in ("median", "spread", "of peak"):
        table.add_column(name, justify="right")
    for each in it.contenders:
        mine = each is it.ninefold
        share = percent(it.limit_seconds / each.seconds)
        time, spread = f"{1000 * each.seconds:.2f} ms", f"± {percent(each.spread)}"
        table.add_row(each.name, time, spread, share, style="bold green" if mine else "")
    factor = f"{it.speedup:.2f}× as fast as {it.best_plain.name}, over {it.rounds} rounds in turns"
    table.caption = f"{factor}\n{limits(it.machine)}"
    return table


def _fates(it: Examination) -> Text:
    names = ", ".join(
        f"{number} {fate}" for fate in FATES if (number := sum(layer.fate == fate for layer in it.layers))
    )
    return Text(
        f"layers: {names}; {percent(it.fused_share)} of the separable multiplications in fused kernels"
    )


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", caption_justify="left", box=box.SIMPLE_HEAD
    )


def _threads(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"
