"""Whole networks at batch 1 in float32, against PyTorch and, where installed, ONNX Runtime and OpenVINO.

Each library runs in a process of its own and the processes take turns; a turn's time is the median of its
calls, a factor the median of the ratios turn by turn. A library whose logits are wrong gets no figure, and
the run fails.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch

import page
from contestants import LIBRARIES, PEERS_BY_FILE, Contestant, installed
from ninefold import census, measure, models, surroundings

PLAIN = ("PyTorch, NCHW", "PyTorch, channels-last")
NINEFOLD = "Ninefold"
_TOLERANCE = 1e-4  # of the logits' range
_CALLS = 5


@dataclass(frozen=True)
class Result:
    """One network with one number of threads: the medians of each library's turns, in seconds."""

    network: str
    multiplications: int
    turns: dict[str, list[float]]

    def seconds(self, name: str) -> float:
        """The median over the turns."""
        return median(self.turns[name])

    def factor(self, slow: str, fast: str) -> float:
        """How many times faster `fast` is, turn by turn."""
        return median(a / b for a, b in zip(self.turns[slow], self.turns[fast], strict=True))

    @property
    def best_plain(self) -> str:
        """The faster of PyTorch's two layouts."""
        return min(PLAIN, key=self.seconds)


def run(network: str, names: list[str], *, threads: int, rounds: int) -> tuple[Result, dict[str, str]]:
    """Time one network; also the peers' versions. ArithmeticError where a library's logits are wrong."""
    loaded = models.load(network)
    x = loaded.example()
    with torch.no_grad():
        right = loaded.model.double()(x.double()).numpy()
    loaded.model.float()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        onnx = str(_export(loaded.model, x, folder)) if set(names) & set(PEERS_BY_FILE) else None
        contestants = []
        for name in names:
            contestants.append(contestant := Contestant(name, network, onnx, threads))
            stack.callback(contestant.close)
            error = float(np.abs(contestant.answer - right).max() / (right.max() - right.min()))
            if not error < _TOLERANCE:
                raise ArithmeticError(f"{network}: {name} is off by {error:.1e} of the logits' range")
        turns: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for contestant in contestants:
                turns[contestant.name].append(median(contestant.turn(_CALLS)))
        versions = {each.name: each.version for each in contestants if each.name in PEERS_BY_FILE}
    return Result(network, census.take(loaded.model, (x,)).multiplications, turns), versions


def figures(results: list[Result], names: list[str], limits: measure.Limits) -> str:
    """One table for one number of threads, times in milliseconds."""
    head = ["ms", *names, "limit", "Ninefold, of peak", "over PyTorch", "over the best peer"]
    rows = []
    for result in results:
        peers = [name for name in names if name in PEERS_BY_FILE]
        best = min(peers, key=result.seconds) if peers else None
        rows.append(
            [
                result.network,
                *(f"{1000 * result.seconds(name):.2f}" for name in names),
                f"{2 * result.multiplications / limits.gflops / 1e6:.2f}",
                f"{100 * limits.share_of_peak(result.multiplications, result.seconds(NINEFOLD)):.0f} %",
                f"**{result.factor(result.best_plain, NINEFOLD):.2f}×**",
                f"{result.factor(best, NINEFOLD):.2f}×" if best else "none installed",
            ]
        )
    return page.table(head, rows)


def _export(model: torch.nn.Module, x: torch.Tensor, folder: Path) -> Path:
    file = folder / "network.onnx"
    torch.onnx.export(model, (x,), file, dynamo=True, verbose=False)
    return file


@click.command(help=__doc__)
@click.option("--threads", type=click.IntRange(min=1), multiple=True, default=(1, 2), show_default=True)
@click.option("--network", "networks", multiple=True, default=(models.DEMO,), show_default=True)
@click.option("--rounds", type=click.IntRange(min=3), default=30, show_default=True, help="Turns of each.")
@click.option("--write", is_flag=True, help="Keep the page in benchmarks/results.")
def main(threads: tuple[int, ...], networks: tuple[str, ...], rounds: int, write: bool) -> None:
    """Measure every network with every number of threads."""
    names = installed()
    parts, machines, versions = [], [], {}
    for count in threads:
        limits = measure.limits(count)
        results = []
        for network in networks:
            print(f"{count} × {network}", file=sys.stderr)
            result, found = run(network, names, threads=count, rounds=rounds)
            results.append(result)
            versions.update(found)
        limits = measure.better(limits, measure.limits(count))
        machines.append(surroundings.describe(limits))
        parts.append(f"## {count} thread{'s' if count != 1 else ''}\n\n{figures(results, names, limits)}")
    absent = [name for name in LIBRARIES if name not in names]
    notes = [page.circumstances(machines)]
    if versions:
        notes.append("- " + ", ".join(f"{name} {number}" for name, number in versions.items()))
    if absent:
        notes.append(f"- not installed: {', '.join(absent)}")
    title = f"# Whole networks, float32, batch 1\n\n`{page.command()}`"
    page.publish("inference", "\n\n".join([title, *parts, "\n".join(notes)]), write=write)


if __name__ == "__main__":
    main()
