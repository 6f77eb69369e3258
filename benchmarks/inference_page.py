"""The page, the plot and the data of `inference.py`: what several runs measured, each under its own
circumstances.

A run takes the place of what earlier ones measured with the same batch and number of threads; the rest of
theirs stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import page
import plot
from libraries import LIBRARIES, NINEFOLD, PEERS, PLAIN
from ninefold import measure
from ninefold.reporting.data import Bandwidth, Machine
from rounds import Timed

_NETWORKS = Path(__file__).parent / "shapes" / "networks.txt"


@dataclass(frozen=True)
class Result(Timed):
    """What the libraries, by name, took for one network, batch and number of threads."""

    network: str
    batch: int
    threads: int
    multiplications: int
    parameters: int

    @property
    def group(self) -> tuple[int, int]:
        """Batch and threads: one table of the page."""
        return self.batch, self.threads


@dataclass(frozen=True)
class Run:
    """One call of the benchmark: what it measured, on which machine (one for each number of threads)."""

    command: str
    when: str
    machines: tuple[Machine, ...]
    versions: Mapping[str, str]
    settings: Mapping[str, str]  # of each library, then: they may change
    absent: Mapping[str, tuple[str, ...]]
    results: tuple[Result, ...]

    def machine(self, threads: int) -> Machine:
        """The machine with its limits for so many threads."""
        return next(each for each in self.machines if each.threads == threads)


def wanted() -> dict[str, tuple[float, float]]:
    """The networks to run, with the factor over the fastest peer that each should reach and might."""
    lines = _NETWORKS.read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return {f"timm:{name}": (float(floor), float(aim)) for name, floor, aim in rows}


def figures(results: Sequence[Result], names: Sequence[str], limits: measure.Limits) -> str:
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


def summary(results: Sequence[Result]) -> str:
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


def drawing(runs: Sequence[Run]) -> str:
    """Every time as a multiple of its limit: 1 is the peak of the arithmetic."""
    panels = []
    for batch, threads in sorted({result.group for run in runs for result in run.results}):
        rows = [
            plot.Row(
                result.network.removeprefix("timm:"),
                {
                    name: result.seconds(name) / arithmetic(result, limits_of(run.machine(threads)))
                    for name in result.turns
                },
            )
            for run in runs
            for result in run.results
            if result.group == (batch, threads)
        ]
        panels.append(plot.Panel(f"batch {batch}, {page.threads(threads)}", tuple(rows)))
    names = [name for name in LIBRARIES if any(name in run.versions for run in runs)]
    return plot.dots(
        "Time over the limit: 1 is all multiplications at the machine's peak", panels, names, ours=NINEFOLD
    )


def text(runs: Sequence[Run]) -> str:
    """The page: every table under the command that measured it."""
    parts = ["# Whole networks, float32", "![plot](inference.svg)", _READING]
    for run in runs:
        names = [name for name in LIBRARIES if name in run.versions]
        for batch, threads in sorted({result.group for result in run.results}):
            group = [result for result in run.results if result.group == (batch, threads)]
            limits = limits_of(run.machine(threads))
            parts.append(f"## Batch {batch}, {page.threads(threads)}\n\n{figures(group, names, limits)}")
        lines = [f"- `{run.command}`, {run.when}", page.circumstances(run.machines), *notes(run)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def notes(run: Run) -> list[str]:
    """The libraries and their settings, how far Ninefold was off at most, and who has no time and why."""
    lines = page.libraries(run.settings, run.absent, run.versions)
    worst = max((result.errors[NINEFOLD] for result in run.results), default=0.0)
    lines.append(f"- furthest from PyTorch in float64, Ninefold: {worst:.1e} of the output's range")
    for result in run.results:
        for name, reason in result.failed.items():
            where = f"{result.network}, batch {result.batch}, {page.threads(result.threads)}"
            lines.append(f"- no time for {name} on {where}: {reason}")
    return lines


def limits_of(machine: Machine) -> measure.Limits:
    """The limits that were measured with the machine's number of threads."""
    bandwidths = tuple(
        measure.Bandwidth(each.level, each.size, each.gigabytes_per_second) for each in machine.bandwidths
    )
    return measure.Limits(machine.threads, machine.gflops, bandwidths, machine.measured_with)


def beside(earlier: Sequence[Run], run: Run) -> list[Run]:
    """The run, and what earlier ones measured with other batches and threads, in the page's order."""
    again = {result.group for result in run.results}
    runs = [run]
    for each in earlier:
        left = tuple(result for result in each.results if result.group not in again)
        used = {result.threads for result in left}
        machines = tuple(machine for machine in each.machines if machine.threads in used)
        if left:
            runs.append(replace(each, results=left, machines=machines))
    return sorted(runs, key=lambda each: min(result.group for result in each.results))


def kept(path: Path) -> list[Run]:
    """The runs that `data` wrote to a file; none where there is no such file."""
    if not path.exists():
        return []
    return [_run(row) for row in json.loads(path.read_text(encoding="utf-8"))["runs"]]


def data(runs: Sequence[Run]) -> str:
    """Everything as JSON, for other programs and for `kept`."""
    return json.dumps({"runs": [asdict(run) for run in runs]}, indent=1)


def _run(row: dict[str, Any]) -> Run:
    machines = tuple(
        Machine(
            **{
                **machine,
                "bandwidths": tuple(Bandwidth(**each) for each in machine["bandwidths"]),
                "versions": tuple((name, number) for name, number in machine["versions"]),
            }
        )
        for machine in row["machines"]
    )
    absent = {name: tuple(packages) for name, packages in row["absent"].items()}
    results = tuple(Result(**result) for result in row["results"])
    return Run(**{**row, "machines": machines, "absent": absent, "results": results})


_READING = (
    "limit: the multiplications at the machine's peak; weights: reading every weight once, from the smallest "
    "cache that holds them; both in milliseconds. of peak: Ninefold's share. A factor is the median of the "
    "ratios turn by turn, not the ratio of the medians. wanted: the least factor over the fastest peer."
)
