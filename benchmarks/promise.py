"""The promise kept: does a separable layer take the share of a standard one's time that its arithmetic says?

For each of MobileNetV1's ten shapes (3×3, batch 1, float32) the fastest standard convolution of any library
here, Ninefold's included, over Ninefold's separable layer (depthwise → ReLU6 → pointwise), over the ratio of
their multiplications 9·N / (9 + N). 1 is the promise kept to the letter. The ratio counts the multiplications
of the definition, so what is kept of it is asked of those who make them; Winograd's convolutions make as few
as a quarter, in Ninefold and in ncnn, and have a column of their own. Each library runs in a process of its
own and they take turns; every result is checked before its time counts.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from fractions import Fraction
from statistics import geometric_mean

import click

import cases
import ops
import page
import plot
from contestants import versions
from libraries import LIBRARIES, NINEFOLD, settings
from ninefold import measure, surroundings
from ninefold.cost import separable, standard
from rounds import Timed, compete

SEPARABLE = "Ninefold, separable"
DIRECT = "Ninefold, direct"


@dataclass(frozen=True)
class Result(Timed):
    """One shape with one number of threads: each library's standard convolution, and our separable layer.

    Ninefold's standard one is there twice: as it comes, and with all multiplications.
    """

    layer: ops.Layer
    threads: int

    @property
    def arithmetic(self) -> Fraction:
        """Multiplications of the standard layer over those of the separable one."""
        shape = self.layer.in_channels, self.layer.out_channels, 3, self.layer.depthwise.output_size[0]
        return Fraction(standard(*shape).multiplications, separable(*shape).multiplications)

    def fastest_standard(self, *, fewer: bool) -> str:
        """Who has the fastest standard convolution, of all or of those that make all multiplications."""
        fastest = self.fastest(
            name for name in self.turns if name != SEPARABLE and (fewer or not makes_fewer(name))
        )
        assert fastest is not None
        return fastest

    def kept(self, library: str) -> float:
        """How much of the arithmetic's promise our separable layer keeps against a library's standard one."""
        return self.factor(library, SEPARABLE) / float(self.arithmetic)


def makes_fewer(name: str) -> bool:
    """Whether this column's standard convolution takes fewer multiplications than the definition."""
    return name in LIBRARIES and LIBRARIES[name].fewer


def run(layer: ops.Layer, names: list[str], *, threads: int, seconds: float) -> Result:
    """Time one shape; ArithmeticError where one of Ninefold's results is wrong."""
    shape = f"{layer.in_channels} {layer.out_channels} {layer.size} {layer.stride}"
    wide = cases.prepare(f"layer:standard {shape}", 1)
    entries = {name: (name, wide) for name in names}
    entries[DIRECT] = (NINEFOLD, cases.prepare(f"layer:direct {shape}", 1))
    entries[SEPARABLE] = (NINEFOLD, cases.prepare(f"layer:separable {shape}", 1))
    timed = compete(entries, threads=threads, seconds=seconds, ours=(NINEFOLD, DIRECT, SEPARABLE))
    return Result(timed.turns, timed.errors, timed.failed, layer, threads)


def figures(results: list[Result], names: list[str], limits: measure.Limits) -> str:
    """One table for one number of threads, times in milliseconds."""
    head = [
        *("M, N, size, stride", *names, "direct", "separable", "limit", "times faster", "arithmetic", "kept"),
        *("with Winograd's", "our standard one"),
    ]
    rows = []
    for result in results:
        best, any_way = (result.fastest_standard(fewer=fewer) for fewer in (False, True))
        layer = result.layer
        rows.append(
            [
                f"{layer.in_channels}, {layer.out_channels}, {layer.size}, {layer.stride}",
                *(f"{1e3 * result.seconds(name):.3f}" if name in result.turns else "–" for name in names),
                f"{1e3 * result.seconds(DIRECT):.3f}",
                f"{1e3 * result.seconds(SEPARABLE):.3f}",
                f"{2e3 * layer.multiplications / limits.gflops / 1e9:.3f}",
                f"{result.factor(best, SEPARABLE):.2f}×",
                f"{float(result.arithmetic):.2f}×",
                f"**{result.kept(best):.2f}** {best}",
                f"{result.kept(any_way):.2f} {any_way}",
                f"{result.factor(any_way, NINEFOLD):.2f}×",
            ]
        )
    kept, any_way_kept = (
        [result.kept(result.fastest_standard(fewer=fewer)) for result in results] for fewer in (False, True)
    )
    ours = [result.factor(result.fastest_standard(fewer=True), NINEFOLD) for result in results]
    direct = [result.factor(result.fastest_standard(fewer=False), DIRECT) for result in results]
    return (
        f"{page.table(head, rows)}\n\nThe promise kept: geometric mean **{geometric_mean(kept):.2f}**, worst "
        f"{min(kept):.2f}; against Winograd's convolutions too, which make fewer multiplications than the "
        f"arithmetic counts, {geometric_mean(any_way_kept):.2f}, worst {min(any_way_kept):.2f}. Ninefold's "
        f"own standard convolution: geometric mean {geometric_mean(ours):.2f} of the fastest library's "
        f"speed, worst {min(ours):.2f}; with all multiplications {geometric_mean(direct):.2f} of the fastest "
        f"such, worst {min(direct):.2f}."
    )


def drawing(results: list[Result], names: list[str]) -> str:
    """What is kept of the promise against each library's standard convolution; the leftmost dot counts."""
    panels = []
    for count in sorted({result.threads for result in results}):
        rows = tuple(
            plot.Row(
                _words(each.layer),
                {name: each.kept(name) for name in names if name in each.turns},
            )
            for each in results
            if each.threads == count
        )
        panels.append(plot.Panel(page.threads(count), rows))
    title = "The promise kept: time of a library's standard convolution / our separable one / the arithmetic"
    return plot.dots(title, panels, names, ours=NINEFOLD)


def _words(layer: ops.Layer) -> str:
    return f"{layer.in_channels} → {layer.out_channels}, {layer.size}²/{layer.stride}"


@click.command(help=__doc__)
@click.option("--threads", type=click.IntRange(min=1), multiple=True, default=(1, 2), show_default=True)
@click.option("--shapes", default="mobilenet_v1", show_default=True, help="A file in benchmarks/shapes.")
@click.option("--library", "chosen", type=click.Choice(list(LIBRARIES)), multiple=True, help="Only these.")
@click.option("--seconds", default=0.5, show_default=True, help="Of each library, on each shape.")
@click.option("--write", is_flag=True, help="Keep page, plot and data in benchmarks/results.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def main(
    threads: tuple[int, ...], shapes: str, chosen: tuple[str, ...], seconds: float, write: bool, as_json: bool
) -> None:
    """Measure every shape with every number of threads."""
    asked = [name for name in LIBRARIES if not chosen or name in (*chosen, NINEFOLD)]
    absent = {name: LIBRARIES[name].missing for name in asked if LIBRARIES[name].missing}
    names = [name for name in asked if name not in absent]
    results, parts, machines = [], [], []
    for count in threads:
        limits = measure.limits(count)
        found = []
        for layer in ops.read(shapes):
            print(f"{count} × {layer}", file=sys.stderr)
            found.append(run(layer, names, threads=count, seconds=seconds))
        limits = measure.better(limits, measure.limits(count))
        machines.append(surroundings.describe(limits))
        parts.append(f"## {page.threads(count).capitalize()}\n\n{figures(found, names, limits)}")
        results += found
    notes = [page.circumstances(machines), *page.libraries(settings(names), absent, versions(names))]
    for result in results:
        notes += [f"- no time for {name} on {result.layer}: {why}" for name, why in result.failed.items()]
    title = f"# The promise kept, {shapes}, float32, batch 1\n\n`{page.command()}`\n\n![plot](promise.svg)"
    page.publish("promise", "\n\n".join([title, *parts, "\n".join(notes)]), write=write, show=not as_json)
    data = [asdict(result) for result in results]
    if as_json:
        print(page.as_json(machines, results=data))
    if write:
        page.keep("promise.svg", drawing(results, names))
        page.keep_data("promise", machines, results=data)


if __name__ == "__main__":
    main()
