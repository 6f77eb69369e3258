"""Whole networks in float32, against every library that runs them on a CPU.

PyTorch in both layouts, torch.compile with freezing, ONNX Runtime, OpenVINO, ncnn and ExecuTorch, each at
its best documented settings, in a process of its own; the processes take turns. A turn's time is the median
of its calls, a factor the median of the ratios turn by turn. What a library computes is held against PyTorch
in float64 before its time counts; the run fails if Ninefold's is wrong.
"""

from __future__ import annotations

import sys
from datetime import date

import click

import cases
import inference_page
import page
from cases import Case
from contestants import versions
from inference_page import Result, Run, wanted
from libraries import LIBRARIES, NINEFOLD, PEERS, settings
from ninefold import measure, surroundings
from rounds import compete


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
    measured = Run(
        page.command(),
        date.today().isoformat(),
        tuple(surroundings.describe(limits[count]) for count in threads),
        versions(names),
        settings(names),
        absent,
        tuple(results),
    )
    if as_json:
        print(inference_page.data([measured]))
    else:
        print(inference_page.text([measured]))
    if write:
        runs = inference_page.beside(inference_page.kept(page.RESULTS / "inference.json"), measured)
        page.keep("inference.md", inference_page.text(runs) + "\n")
        page.keep("inference.svg", inference_page.drawing(runs))
        page.keep("inference.json", inference_page.data(runs) + "\n")


if __name__ == "__main__":
    main()
