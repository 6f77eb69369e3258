"""Whole networks in float32, against every library that runs them on a CPU.

PyTorch in both layouts, torch.compile with freezing, ONNX Runtime, OpenVINO, ncnn and ExecuTorch, each at
its best documented settings, in a process of its own; the processes take turns. A turn's time is the median
of its calls, a factor the median of the ratios turn by turn. What a library computes is held against PyTorch
in float64 before its time counts; the run fails if Ninefold's is wrong.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean

import click

import cases
import page
import plot
from cases import Case
from contestants import versions
from libraries import LIBRARIES, NINEFOLD, PEERS, PLAIN
from ninefold import measure, surroundings
from rounds import Timed, compete

_NETWORKS = Path(__file__).parent / "shapes" / "networks.txt"


@dataclass(frozen=True)
class Result(Timed):
    """What the libraries, by name, took for one network, batch and number of threads."""

    network: str
    batch: int
    threads: int
    multiplications: int
    parameters: int


def wanted() -> dict[str, tuple[float, float]]:
    """The networks to run, with the factor over the fastest peer that each should reach and might."""
    lines = _NETWORKS.read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return {f"timm:{name}": (float(floor), float(aim)) for name, floor, aim in rows}


def run(case: Case, names: list[str], *, threads: int, seconds: float) -> Result:
    """Time one case, about `seconds` of each library; ArithmeticError where Ninefold's result is wrong."""
    entries = {name: (name, case) for name in names}
    timed = compete(
        entries, threads=threads, seconds=seconds, ours=[name for name in names if name == NINEFOLD]
    )
    return Result(
        timed.turns,
        timed.errors,
        timed.failed,
        case.network,
        case.batch,
        threads,
        case.multiplications,
        case.parameters,
    )


def figures(results: list[Result], names: list[str], limits: measure.Limits) -> str:
    """One table for one batch and one number of threads, times in milliseconds."""
    goals = wanted()
    head = ["ms", *names, "limit", "weights", "of peak", "over PyTorch", "over the best peer", "wanted"]
    rows = []
    for result in results:
        plain, peer = result.fastest(PLAIN), result.fastest(PEERS)
        rows.append(
            [
                result.network.removeprefix("timm:"),
                *(_cell(result, name) for name in names),
                f"{1e3 * arithmetic(result, limits):.2f}",
                f"{1e3 * weights(result, limits):.2f}",
                f"{100 * limits.share_of_peak(result.multiplications, result.seconds(NINEFOLD)):.0f} %",
                f"{result.factor(plain, NINEFOLD):.2f}×" if plain else "–",
                f"**{result.factor(peer, NINEFOLD):.2f}×** {peer}" if peer else "–",
                f"{goals[result.network][0]}×" if result.network in goals else "–",
            ]
        )
    return f"{page.table(head, rows)}\n\n{summary(results)}"


def summary(results: list[Result]) -> str:
    """Geometric means, and what stays under what is wanted."""
    goals, words = wanted(), []
    for title, group in (("PyTorch's faster layout", PLAIN), ("the fastest peer", PEERS)):
        factors = [
            result.factor(name, NINEFOLD) for result in results if (name := result.fastest(group)) is not None
        ]
        if factors:
            mean = geometric_mean(factors)
            words.append(f"Over {title}: geometric mean **{mean:.2f}×**, worst {min(factors):.2f}×.")
    short = [
        f"{result.network.removeprefix('timm:')} ({factor:.2f}× of {goals[result.network][0]}×)"
        for result in results
        if result.network in goals
        and (peer := result.fastest(PEERS)) is not None
        and (factor := result.factor(peer, NINEFOLD)) < goals[result.network][0]
    ]
    words.append(
        f"Under what is wanted: {', '.join(short)}." if short else "Nothing is under what is wanted."
    )
    return " ".join(words)


def arithmetic(result: Result, limits: measure.Limits) -> float:
    """Seconds that the multiplications take at peak."""
    return 2 * result.multiplications / limits.gflops / 1e9


def weights(result: Result, limits: measure.Limits) -> float:
    """Seconds to read every weight once, from the smallest memory that holds them all."""
    size = 4 * result.parameters
    levels = sorted(limits.bandwidths, key=lambda each: each.size)
    # A working set fills half of its cache.
    level = next((each for each in levels if size <= 2 * each.size), levels[-1])
    return size / level.gigabytes_per_second / 1e9


def _cell(result: Result, name: str) -> str:
    return f"{1e3 * result.seconds(name):.2f}" if name in result.turns else "–"


def drawing(results: list[Result], names: list[str], limits: dict[int, measure.Limits]) -> str:
    """Every time as a multiple of its limit: 1 is the peak of the arithmetic."""
    panels = []
    for batch, threads in sorted({(result.batch, result.threads) for result in results}):
        rows = [
            plot.Row(
                result.network.removeprefix("timm:"),
                {
                    name: result.seconds(name) / arithmetic(result, limits[threads])
                    for name in names
                    if name in result.turns
                },
            )
            for result in results
            if (result.batch, result.threads) == (batch, threads)
        ]
        panels.append(plot.Panel(f"batch {batch}, {page.threads(threads)}", tuple(rows)))
    return plot.dots(
        "Time over the limit: 1 is all multiplications at the machine's peak", panels, names, ours=NINEFOLD
    )


@click.command(help=__doc__)
@click.option("--threads", type=click.IntRange(min=1), multiple=True, default=(1, 2), show_default=True)
@click.option(
    "--batch", "batches", type=click.IntRange(min=1), multiple=True, default=(1, 8), show_default=True
)
@click.option("--network", "networks", multiple=True, help="Instead of the ten of shapes/networks.txt.")
@click.option("--library", "chosen", type=click.Choice(list(LIBRARIES)), multiple=True, help="Only these.")
@click.option("--seconds", default=4.0, show_default=True, help="Of each library, on each network.")
@click.option("--write", is_flag=True, help="Keep page, plot and data in benchmarks/results.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def main(
    threads: tuple[int, ...],
    batches: tuple[int, ...],
    networks: tuple[str, ...],
    chosen: tuple[str, ...],
    seconds: float,
    write: bool,
    as_json: bool,
) -> None:
    """Measure every network with every batch and number of threads."""
    asked = [name for name in LIBRARIES if not chosen or name in (*chosen, NINEFOLD)]
    absent = {name: LIBRARIES[name].missing for name in asked if LIBRARIES[name].missing}
    names = [name for name in asked if name not in absent]
    limits = {count: measure.limits(count) for count in threads}
    results = []
    for network in networks or tuple(wanted()):
        for batch in batches:
            print(f"{network}, batch {batch}", end="", file=sys.stderr, flush=True)
            case = cases.prepare(network, batch)
            for count in threads:
                results.append(result := run(case, names, threads=count, seconds=seconds))
                peer = result.fastest(PEERS)
                factor = f"{result.factor(peer, NINEFOLD):.2f}× {peer}" if peer else "done"
                print(f"; {page.threads(count)}: {factor}", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
    for count in threads:
        limits[count] = measure.better(limits[count], measure.limits(count))
    parts = [
        f"## Batch {batch}, {page.threads(count)}\n\n"
        + figures(
            [each for each in results if (each.batch, each.threads) == (batch, count)], names, limits[count]
        )
        for batch in batches
        for count in threads
    ]
    machines = [surroundings.describe(limits[count]) for count in threads]
    notes = [page.circumstances(machines), *_notes(results, names, absent)]
    title = f"# Whole networks, float32\n\n`{page.command()}`\n\n![plot](inference.svg)\n\n{_READING}"
    page.publish("inference", "\n\n".join([title, *parts, "\n".join(notes)]), write=write, show=not as_json)
    data = {
        "results": [asdict(result) for result in results],
        "settings": {name: LIBRARIES[name].settings for name in names},
        "versions": versions(names),
    }
    if as_json:
        print(page.as_json(machines, **data))
    if write:
        page.keep("inference.svg", drawing(results, names, limits))
        page.keep_data("inference", machines, **data)


_READING = (
    "limit: the multiplications at the machine's peak; weights: reading every weight once, from the smallest "
    "cache that holds them; both in milliseconds. of peak: Ninefold's share. A factor is the median of the "
    "ratios turn by turn, not the ratio of the medians. wanted: the least factor over the fastest peer."
)


def _notes(results: list[Result], names: list[str], absent: dict[str, tuple[str, ...]]) -> list[str]:
    lines = page.libraries(names, absent, LIBRARIES, versions(names))
    worst = max((result.errors[NINEFOLD] for result in results), default=0.0)
    lines.append(f"- furthest from PyTorch in float64, Ninefold: {worst:.1e} of the output's range")
    for result in results:
        for name, reason in result.failed.items():
            where = f"{result.network}, batch {result.batch}, {page.threads(result.threads)}"
            lines.append(f"- no time for {name} on {where}: {reason}")
    return lines


if __name__ == "__main__":
    main()
