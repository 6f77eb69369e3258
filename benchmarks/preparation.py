"""What a network costs before its first answer, and in memory once it runs.

Seconds that `for_inference` takes beyond torch.export itself, which captures the network with its batch free.
Memory is what the process has more (its resident set) after five answers than before the network was loaded,
for Ninefold and for OpenVINO; libraries are imported before. Each is a process of its own, on one thread.
"""

from __future__ import annotations

import gc
import multiprocessing
import sys
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch import nn

import cases
import page
from cases import Case
from libraries import LIBRARIES, NINEFOLD
from ninefold import measure, surroundings

PEER = "OpenVINO"
_TRIES = 5


@dataclass(frozen=True)
class Result:
    """Seconds of torch.export and of `for_inference`, medians; bytes that each library has more, or None."""

    network: str
    export: float
    whole: float
    parameters: int
    memory: dict[str, int | None]


def run(network: str) -> Result:
    """Measure one network at batch 1."""
    case = cases.prepare(network, 1)
    export, whole = _in_a_process(_seconds, case)
    memory: dict[str, int | None] = {NINEFOLD: None, PEER: None}
    for name in memory:
        library = LIBRARIES[name]
        if library.missing:
            continue
        if library.convert is not None and cases.converted(
            case, library.file, library.package, library.convert
        ):
            continue
        memory[name] = _in_a_process(_memory, case, name)
    return Result(network, export, whole, case.parameters, memory)


def _in_a_process(work: Any, *arguments: Any) -> Any:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(theirs, *arguments))
    process.start()
    theirs.close()
    answer = mine.recv()
    process.join()
    return answer


def _seconds(pipe: Connection, case: Case) -> None:
    from ninefold.inference import for_inference

    torch.set_num_threads(1)
    model, x = cases.load(case.network, 1)
    batch = {0: torch.export.Dim.DYNAMIC}
    two = torch.cat([x, x])  # a batch of one would be taken for a constant

    def export() -> None:
        with torch.no_grad():
            torch.export.export(model, (two,), dynamic_shapes=(batch,), strict=False)

    def whole() -> None:
        for_inference(model, (x,))(x)

    pipe.send(tuple(median(times[1:]) for times in _in_turns(export, whole)))


def _in_turns(*runs: Any) -> list[list[float]]:
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(_TRIES + 1):
        for run, times in zip(runs, taken, strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return taken


def _memory(pipe: Connection, case: Case, name: str) -> None:
    torch.set_num_threads(1)
    if name == NINEFOLD:  # what capturing imports is no network's burden
        import timm  # noqa: F401

        from ninefold.inference import for_inference

        x = torch.zeros(1, 3, 8, 8)
        for_inference(nn.Conv2d(3, 8, 3).eval(), (x,))(x)
    else:
        import openvino

        openvino.Core()
    before = _resident()
    answer = LIBRARIES[name].prepare(case, 1)
    for _ in range(5):
        answer()
    pipe.send(_resident() - before)


def _resident() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def figures(results: list[Result]) -> str:
    """A row for each network."""
    head = ["network", "torch.export, s", "for_inference, s", "added, s", "weights, MB"]
    head += [f"{name}, MB" for name in (NINEFOLD, PEER)]
    rows = [
        [
            result.network.removeprefix("timm:"),
            f"{result.export:.2f}",
            f"{result.whole:.2f}",
            f"{result.whole - result.export:.2f}",
            f"{4e-6 * result.parameters:.0f}",
            *(
                "not here" if size is None else f"{1e-6 * size:.0f}"
                for size in (result.memory[NINEFOLD], result.memory[PEER])
            ),
        ]
        for result in results
    ]
    return page.table(head, rows)


@click.command(help=__doc__)
@click.option(
    "--network", "networks", multiple=True, help="Instead of mobilenetv2_100, efficientnet_b0, xception41."
)
@click.option("--write", is_flag=True, help="Keep page and data in benchmarks/results.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def main(networks: tuple[str, ...], write: bool, as_json: bool) -> None:
    """Measure each network."""
    names = networks or ("timm:mobilenetv2_100", "timm:efficientnet_b0", "timm:xception41")
    machines = [surroundings.describe(measure.limits(1))]
    results = []
    for name in names:
        print(name, file=sys.stderr)
        results.append(run(name))
    text = "\n\n".join(
        [
            f"# Before the first answer\n\n`{page.command()}`",
            "torch.export captures with the batch free, as `for_inference` lets it. Memory: what the process "
            "has more after five answers than before the network was loaded; Ninefold's has the original "
            "weights too, which the caller holds.",
            figures(results),
            page.circumstances(machines),
        ]
    )
    page.publish("preparation", text, write=write, show=not as_json)
    kept = [asdict(result) for result in results]
    if as_json:
        print(page.as_json(machines, results=kept))
    if write:
        page.keep_data("preparation", machines, results=kept)


if __name__ == "__main__":
    main()
