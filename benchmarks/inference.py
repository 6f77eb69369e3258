"""Whole networks in float32, against every library that runs them on a CPU.

PyTorch in both layouts, torch.compile with freezing, ONNX Runtime, OpenVINO, ncnn and ExecuTorch, each at
its best documented settings, in a process of its own; the processes take turns. A turn's time is the median
of its calls, a factor the median of the ratios turn by turn. What a library computes is held against PyTorch
in float64 before its time counts; the run fails if Ninefold's is wrong.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean, median

import click

import cases
import page
import plot
from cases import Case
from contestants import Contestant, Failed, versions
from libraries import LIBRARIES, NINEFOLD, PEERS, PLAIN
from ninefold import measure, surroundings

TOLERANCE = 1e-4  # of the answer's range
_NETWORKS = Path(__file__).parent / "shapes" / "networks.txt"
_CALLS, _TURN = 5, 0.15  # calls in a turn; fewer where they take more seconds than this
_ROUNDS = 7, 40


@dataclass(frozen=True)
class Result:
    """One network, batch and number of threads: seconds of each library's turns, or why it has none."""

    network: str
    batch: int
    threads: int
    multiplications: int
    parameters: int
    turns: dict[str, list[float]]
    errors: dict[str, float]
    failed: dict[str, str]

    def seconds(self, name: str) -> float:
        """The median over the turns."""
        return median(self.turns[name])

    def factor(self, slow: str, fast: str) -> float:
        """How many times faster `fast` is, turn by turn."""
        return median(a / b for a, b in zip(self.turns[slow], self.turns[fast], strict=True))

    def fastest(self, names: tuple[str, ...]) -> str | None:
        """The one of `names` with the smallest median, None where none was timed."""
        return min((name for name in names if name in self.turns), key=self.seconds, default=None)


def wanted() -> dict[str, tuple[float, float]]:
    """The networks to run, with the factor over the fastest peer that each should reach and might."""
    lines = _NETWORKS.read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return {f"timm:{name}": (float(floor), float(aim)) for name, floor, aim in rows}


def run(case: Case, names: list[str], *, threads: int, seconds: float) -> Result:
    """Time one case, about `seconds` of each library; ArithmeticError where Ninefold's result is wrong."""
    failed, errors, runners = {}, {}, []
    for name in names:
        library = LIBRARIES[name]
        if library.convert is not None:
            reason = cases.converted(case, library.file, library.package, library.convert)
            if reason:
                failed[name] = f"not converted ({reason})"
    with ExitStack() as stack:
        started = []
        for name in names:
            if name not in failed:
                started.append(contestant := Contestant(name, case, threads))
                stack.callback(contestant.close)
        for contestant in started:
            got = contestant.answer()
            if isinstance(got, Failed):
                failed[contestant.name] = got.reason
                continue
            errors[contestant.name] = error = case.error(got)
            if error < TOLERANCE:
                runners.append(contestant)
            else:
                failed[contestant.name] = f"off by {error:.1e} of the range"
        if NINEFOLD in failed:
            raise ArithmeticError(f"{case.network}: {NINEFOLD}: {failed[NINEFOLD]}")
        turns = _take_turns(runners, seconds, failed)
    return Result(
        case.network, case.batch, threads, case.multiplications, case.parameters, turns, errors, failed
    )


def _take_turns(
    contestants: list[Contestant], seconds: float, failed: dict[str, str]
) -> dict[str, list[float]]:
    turns: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    calls = {contestant.name: 1 for contestant in contestants}
    spent, done = 0.0, 0
    # The first round only finds out how many calls make a turn.
    while done <= _ROUNDS[0] or (done <= _ROUNDS[1] and spent < seconds * len(turns)):
        for contestant in list(contestants):
            name = contestant.name
            taken = contestant.turn(calls[name])
            if isinstance(taken, Failed):
                failed[name] = taken.reason
                del turns[name]
                contestants.remove(contestant)
                continue
            spent += sum(taken)
            if done:
                turns[name].append(median(taken))
            calls[name] = max(1, min(_CALLS, round(_TURN / median(taken))))
        done += 1
    return turns


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
        panels.append(plot.Panel(f"batch {batch}, {_threads(threads)}", tuple(rows)))
    return plot.dots(
        "Time over the limit: 1 is all multiplications at the machine's peak", panels, names, ours=NINEFOLD
    )


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count != 1 else ''}"


@click.command(help=__doc__)
@click.option("--threads", type=click.IntRange(min=1), multiple=True, default=(1, 2), show_default=True)
@click.option(
    "--batch", "batches", type=click.IntRange(min=1), multiple=True, default=(1, 8), show_default=True
)
@click.option("--network", "networks", multiple=True, help="Instead of the ten of shapes/networks.txt.")
@click.option("--library", "chosen", type=click.Choice(list(LIBRARIES)), multiple=True, help="Only these.")
@click.option("--seconds", default=4.0, show_default=True, help="Of each library, on each network.")
@click.option("--write", is_flag=True, help="Keep page, plot and data in benchmarks/results.")
def main(
    threads: tuple[int, ...],
    batches: tuple[int, ...],
    networks: tuple[str, ...],
    chosen: tuple[str, ...],
    seconds: float,
    write: bool,
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
                print(f"; {_threads(count)}: {factor}", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
    for count in threads:
        limits[count] = measure.better(limits[count], measure.limits(count))
    parts = [
        f"## Batch {batch}, {_threads(count)}\n\n"
        + figures(
            [each for each in results if (each.batch, each.threads) == (batch, count)], names, limits[count]
        )
        for batch in batches
        for count in threads
    ]
    machines = [surroundings.describe(limits[count]) for count in threads]
    notes = [page.circumstances(machines), *_notes(results, names, absent)]
    title = f"# Whole networks, float32\n\n`{page.command()}`\n\n![plot](inference.svg)\n\n{_READING}"
    page.publish("inference", "\n\n".join([title, *parts, "\n".join(notes)]), write=write)
    if write:
        page.keep("inference.svg", drawing(results, names, limits))
        page.keep_data(
            "inference",
            machines,
            results=[asdict(result) for result in results],
            settings={name: LIBRARIES[name].settings for name in names},
            versions=versions(names),
        )


_READING = (
    "limit: the multiplications at the machine's peak; weights: reading every weight once, from the smallest "
    "cache that holds them; both in milliseconds. of peak: Ninefold's share. A factor is the median of the "
    "ratios turn by turn, not the ratio of the medians. wanted: the least factor over the fastest peer."
)


def _notes(results: list[Result], names: list[str], absent: dict[str, tuple[str, ...]]) -> list[str]:
    lines = [
        f"- {name} {number}: {LIBRARIES[name].settings}"
        for name, number in versions([name for name in names if name != NINEFOLD]).items()
    ]
    worst = max((result.errors[NINEFOLD] for result in results), default=0.0)
    lines.append(f"- furthest from PyTorch in float64, Ninefold: {worst:.1e} of the output's range")
    for result in results:
        for name, reason in result.failed.items():
            where = f"{result.network}, batch {result.batch}, {_threads(result.threads)}"
            lines.append(f"- no time for {name} on {where}: {reason}")
    for name, packages in absent.items():
        lines.append(f"- {name} is not here: {', '.join(packages)} is not installed (`make peers`)")
    return lines


if __name__ == "__main__":
    main()
