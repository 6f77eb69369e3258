"""Separable layers against PyTorch's own pair of convolutions, layer by layer.

Depthwise → ReLU6 → pointwise in float32, channels-last, batch 1: PyTorch's operators, the operator
`separable_conv2d` (which packs the weights at each call), and `packed.Separable` (packed once, as
`for_inference` runs it). The three take turns; a factor is the median of the ratios within each turn. A layer
whose result is wrong gets no figure, and the run fails.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean

import click
import torch
from torch.nn import functional

import page
from ninefold import measure, ops, surroundings
from ninefold.ops import packed
from ninefold.shape import ConvShape

SHAPES = Path(__file__).parent / "shapes"
PYTORCH, OPERATOR, PACKED = "PyTorch", "operator", "packed"
_TOLERANCE = 1e-5  # of the largest value


@dataclass(frozen=True)
class Layer:
    """One row of a shapes file: a separable 3×3 layer with padding 1."""

    in_channels: int
    out_channels: int
    size: int
    stride: int

    @property
    def depthwise(self) -> ConvShape:
        """The filtering stage."""
        return ConvShape.depthwise(
            (1, self.in_channels, self.size, self.size),
            (self.in_channels, 1, 3, 3),
            stride=self.stride,
            padding=1,
        )

    @property
    def multiplications(self) -> int:
        """Of both stages."""
        height, width = self.depthwise.output_size
        return self.depthwise.multiplications + height * width * self.in_channels * self.out_channels


@dataclass(frozen=True)
class Result:
    """Seconds by contender, and factors over PyTorch."""

    layer: Layer
    seconds: dict[str, float]
    factors: dict[str, float]


def read(name: str) -> list[Layer]:
    """The layers of shapes/NAME.txt; ValueError names the line that is none."""
    layers = []
    for number, line in enumerate((SHAPES / f"{name}.txt").read_text(encoding="utf-8").splitlines(), 1):
        fields = line.partition("#")[0].split()
        if fields:
            try:
                layers.append(Layer(*map(int, fields)))
            except (TypeError, ValueError):
                raise ValueError(f"{name}.txt:{number}: expected four integers, got {line!r}") from None
    return layers


def contenders(layer: Layer) -> tuple[dict[str, Callable[[], torch.Tensor]], torch.Tensor]:
    """What is timed, and the right answer, computed in float64."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    m, n, stride = layer.in_channels, layer.out_channels, layer.stride
    x = random(1, m, layer.size, layer.size).contiguous(memory_format=torch.channels_last)
    w1, w2 = random(m, 1, 3, 3), random(n, m, 1, 1) / m**0.5
    b1, b2 = random(m), random(n)
    # PyTorch's own fast path: weights in channels-last too.
    c1, c2 = (w.contiguous(memory_format=torch.channels_last) for w in (w1, w2))

    def pytorch() -> torch.Tensor:
        y = functional.conv2d(x, c1, b1, stride=stride, padding=1, groups=m)
        return functional.conv2d(functional.relu6(y, inplace=True), c2, b2)

    kernel = packed.Separable(
        w1, w2, b1, b2, stride=(stride, stride), padding=(1, 1, 1, 1), depthwise_activation="relu6"
    )

    def operator() -> torch.Tensor:
        return ops.separable_conv2d(x, w1, w2, b1, b2, stride=stride, padding=1, depthwise_activation="relu6")

    wide = functional.conv2d(x.double(), w1.double(), b1.double(), stride=stride, padding=1, groups=m)
    right = functional.conv2d(functional.relu6(wide), w2.double(), b2.double())
    return {PYTORCH: pytorch, OPERATOR: operator, PACKED: lambda: kernel(x)}, right


def run(layer: Layer, *, threads: int, seconds: float) -> Result:
    """Check the results, then time them; ArithmeticError where one is wrong."""
    candidates, right = contenders(layer)
    with torch.inference_mode():
        with measure.torch_threads(threads):
            for name, candidate in candidates.items():
                error = float((candidate().double() - right).abs().max() / right.abs().max())
                if not error < _TOLERANCE:
                    raise ArithmeticError(f"{layer}: {name} is off by {error:.1e} of the largest value")
        comparison = measure.interleaved(candidates, threads=threads, seconds=seconds)
    return Result(
        layer,
        {timing.name: timing.median for timing in comparison.timings},
        {name: comparison.ratio(PYTORCH, name) for name in (OPERATOR, PACKED)},
    )


def figures(results: list[Result], limits: measure.Limits) -> str:
    """One table for one number of threads."""
    head = [
        "M, N, size, stride",
        "PyTorch, ms",
        "operator",
        "packed",
        "factor",
        "GFLOP/s",
        "of peak",
        "limit, ms",
    ]
    rows = []
    for result in results:
        layer, seconds = result.layer, result.seconds
        work = 2 * layer.multiplications
        rows.append(
            [
                f"{layer.in_channels}, {layer.out_channels}, {layer.size}, {layer.stride}",
                *(f"{1000 * seconds[name]:.3f}" for name in (PYTORCH, OPERATOR, PACKED)),
                f"{result.factors[PACKED]:.2f}×",
                f"{work / seconds[PACKED] / 1e9:.1f}",
                f"{100 * limits.share_of_peak(layer.multiplications, seconds[PACKED]):.0f} %",
                f"{work / limits.gflops / 1e6:.3f}",
            ]
        )
    factors = {name: [result.factors[name] for result in results] for name in (OPERATOR, PACKED)}
    means = {name: geometric_mean(each) for name, each in factors.items()}
    return (
        f"{page.table(head, rows)}\n\n"
        f"Factor over PyTorch, packed: geometric mean **{means[PACKED]:.2f}×**, worst "
        f"{min(factors[PACKED]):.2f}×. Operator, packing at each call: geometric mean {means[OPERATOR]:.2f}×."
    )


@click.command(help=__doc__)
@click.option("--threads", type=click.IntRange(min=1), multiple=True, default=(1, 2), show_default=True)
@click.option("--shapes", default="mobilenet_v1", show_default=True, help="A file in benchmarks/shapes.")
@click.option("--seconds", default=2.0, show_default=True, help="For each layer.")
@click.option("--write", is_flag=True, help="Keep the page in benchmarks/results.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def main(threads: tuple[int, ...], shapes: str, seconds: float, write: bool, as_json: bool) -> None:
    """Measure every layer with every number of threads."""
    layers = read(shapes)
    measure.keep_memory()
    parts, machines, found = [], [], []
    for count in threads:
        limits = measure.limits(count)
        results = []
        for layer in layers:
            print(f"{count} × {layer}", file=sys.stderr)
            results.append(run(layer, threads=count, seconds=seconds))
        found += [{"threads": count, **asdict(result)} for result in results]
        limits = measure.better(limits, measure.limits(count))
        machines.append(surroundings.describe(limits))
        parts.append(f"## {count} thread{'s' if count != 1 else ''}\n\n{figures(results, limits)}")
    title = f"# Separable layers of {shapes}, float32, batch 1\n\n`{page.command()}`"
    text = "\n\n".join([title, *parts, page.circumstances(machines)])
    if as_json:
        print(page.as_json(machines, results=found))
    page.publish("ops", text, write=write, show=not as_json)


if __name__ == "__main__":
    main()
