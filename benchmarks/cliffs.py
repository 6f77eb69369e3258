"""No cliffs: over a grid of shapes, no operator is much slower than PyTorch's.

Depthwise, pointwise and standard convolutions in float32, batch 1, padding "same": Ninefold's operator on a
channels-last image and weights against PyTorch's on the layout of both that it is faster in. A case falls off
where Ninefold takes more than 10 % and more than 15 µs longer. What seems to fall off is timed again, for
longer, before it counts.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product

import click
import torch
from torch.nn import functional

import cores
import page
from ninefold import measure, ops, surroundings

OURS, NCHW, NHWC = "Ninefold", "PyTorch, NCHW", "PyTorch, channels-last"
CHANNELS = (1, 3, 8, 17, 24, 32, 96, 144, 320, 960)
SIZES = (1, 7, 14, 28, 56, 112)
_SHARE, _SECONDS = 1.10, 15e-6
_TOLERANCE = 1e-4  # of the largest value
_BUSY = ("standard", 64, 64, 3, 1, 1, 56)  # a shape that gives every thread something to do
_MOST = 1 << 30  # multiplications of a standard convolution; more is no small kernel's business


@dataclass(frozen=True)
class Shape:
    """One convolution of the grid; `operator` is "depthwise", "pointwise" or "standard"."""

    operator: str
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    dilation: int
    size: int

    @property
    def padding(self) -> int:
        """Half of what the kernel spans."""
        return self.dilation * (self.kernel_size - 1) // 2

    @property
    def multiplications(self) -> int:
        """As the definitions count them."""
        span = self.dilation * (self.kernel_size - 1) + 1
        side = (self.size + 2 * self.padding - span) // self.stride + 1
        per_output = self.kernel_size**2 * (1 if self.operator == "depthwise" else self.in_channels)
        return side * side * self.out_channels * per_output

    def __str__(self) -> str:
        kernel = f"{self.kernel_size}×{self.kernel_size}"
        channels = f"{self.in_channels}"
        if self.operator != "depthwise":
            channels += f" → {self.out_channels}"
        return f"{self.operator} {kernel}/{self.stride}, dilation {self.dilation}, {channels} × {self.size}²"


@dataclass(frozen=True)
class Result:
    """Seconds of a shape: the medians of Ninefold and of PyTorch's faster layout."""

    shape: Shape
    ours: float
    theirs: float
    layout: str

    @property
    def excess(self) -> float:
        """Seconds beyond what is allowed; negative where all is well."""
        return self.ours - max(_SHARE * self.theirs, self.theirs + _SECONDS)


def grid(operators: tuple[str, ...]) -> Iterator[Shape]:
    """The shapes, operator by operator; an image smaller than what the padded kernel spans is left out."""
    strides, dilations, kernels = (1, 2), (1, 2), range(1, 8)
    for operator in operators:
        if operator == "pointwise":
            shapes = (
                Shape(operator, m, n, 1, 1, 1, size) for m, n, size in product(CHANNELS, CHANNELS, SIZES)
            )
        else:
            shapes = (
                Shape(operator, c, c, kernel, stride, dilation, size)
                for kernel, stride, dilation, c, size in product(kernels, strides, dilations, CHANNELS, SIZES)
                if not (kernel == 1 and dilation > 1)
            )
        for shape in shapes:
            span = shape.dilation * (shape.kernel_size - 1) + 1
            if shape.size + 2 * shape.padding >= span and shape.multiplications <= _MOST:
                yield shape


def contenders(shape: Shape) -> dict[str, Callable[[], torch.Tensor]]:
    """Ninefold's operator, and PyTorch's in both layouts."""
    generator = torch.Generator().manual_seed(0)
    depthwise = shape.operator == "depthwise"
    groups = shape.in_channels if depthwise else 1
    inner = 1 if depthwise else shape.in_channels
    side = shape.kernel_size
    weight = torch.randn(shape.out_channels, inner, side, side, generator=generator) / side / inner**0.5
    bias = torch.randn(shape.out_channels, generator=generator)
    x = torch.randn(1, shape.in_channels, shape.size, shape.size, generator=generator)
    last = torch.channels_last
    image, kernel = x.contiguous(memory_format=last), weight.contiguous(memory_format=last)
    window = {"stride": shape.stride, "padding": shape.padding, "dilation": shape.dilation}
    runs = {
        NCHW: lambda: functional.conv2d(x, weight, bias, groups=groups, **window),
        NHWC: lambda: functional.conv2d(image, kernel, bias, groups=groups, **window),
    }
    if depthwise:
        return {OURS: lambda: ops.depthwise_conv2d(image, kernel, bias, **window), **runs}
    if shape.operator == "pointwise":
        return {OURS: lambda: ops.pointwise_conv2d(image, kernel, bias), **runs}
    return {OURS: lambda: ops.conv2d(image, kernel, bias, **window), **runs}


def run(shape: Shape, *, seconds: float) -> Result:
    """Check one shape and time it; ArithmeticError where the results differ."""
    candidates = contenders(shape)
    got, wanted = candidates[OURS](), candidates[NCHW]()
    error = float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
    if not error < _TOLERANCE:
        raise ArithmeticError(f"{shape}: off by {error:.1e} of the largest value")
    result = _time(shape, candidates, seconds)
    if result.excess > 0:
        result = _time(shape, candidates, 10 * seconds)
    return result


def _time(shape: Shape, candidates: dict[str, Callable[[], torch.Tensor]], seconds: float) -> Result:
    taken = measure.interleaved(candidates, seconds=seconds, rounds=(7, 300))
    layout = taken.fastest(NCHW, NHWC)
    return Result(shape, taken[OURS].median, taken[layout].median, layout)


def figures(results: list[Result], worst: int) -> str:
    """How many fall off, and the worst cases whether or not they do."""
    fallen = [result for result in results if result.excess > 0]
    counted = Counter(result.shape.operator for result in results)
    off = Counter(result.shape.operator for result in fallen)
    lines = [f"- {name}: {off[name]} of {count} shapes fall off" for name, count in counted.items()]
    head = ["shape", "Ninefold, µs", "PyTorch, µs", "its layout", "times slower", "beyond the allowed, µs"]
    rows = [
        [
            str(result.shape),
            f"{1e6 * result.ours:.1f}",
            f"{1e6 * result.theirs:.1f}",
            result.layout.removeprefix("PyTorch, "),
            f"{result.ours / result.theirs:.2f}",
            f"{1e6 * result.excess:+.1f}",
        ]
        for result in sorted(results, key=lambda result: -result.excess)[:worst]
    ]
    return "\n".join(lines) + f"\n\nThe worst {len(rows)}:\n\n{page.table(head, rows)}"


@click.command(help=__doc__)
@click.option("--threads", type=click.IntRange(min=1), multiple=True, default=(1, 2), show_default=True)
@click.option(
    "--operator",
    "operators",
    type=click.Choice(["depthwise", "pointwise", "standard"]),
    multiple=True,
    default=("depthwise", "pointwise", "standard"),
    show_default=True,
)
@click.option("--seconds", default=0.02, show_default=True, help="For each shape, ten times that in doubt.")
@click.option("--worst", type=click.IntRange(min=1), default=30, show_default=True, help="Rows of the table.")
@click.option(
    "--write",
    is_flag=True,
    help="Keep the page in benchmarks/results; all figures, a megabyte, are --json's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def main(
    threads: tuple[int, ...],
    operators: tuple[str, ...],
    seconds: float,
    worst: int,
    write: bool,
    as_json: bool,
) -> None:
    """Measure the grid with every number of threads."""
    measure.keep_memory()
    parts, machines, kept = [], [], []
    for count in threads:
        machines.append(surroundings.describe(measure.limits(count)))
        shapes = list(grid(operators))
        results = []
        with torch.inference_mode(), measure.torch_threads(count):
            if count > 1:  # for one would keep it, and threads that come later, to one core
                cores.spread(contenders(Shape(*_BUSY))[OURS], count)
            for number, shape in enumerate(shapes):
                if number % 100 == 0:
                    print(f"{count} × {number}/{len(shapes)}", file=sys.stderr)
                results.append(run(shape, seconds=seconds))
        kept += [{"threads": count, **asdict(result)} for result in results]
        parts.append(f"## {page.threads(count).capitalize()}\n\n{figures(results, worst)}")
    title = (
        f"# No cliffs\n\n`{page.command()}`\n\nA shape falls off where Ninefold is more than 10 % and more "
    )
    title += "than 15 µs slower than PyTorch's faster layout; the operators pack their weights at each call."
    text = "\n\n".join([title, *parts, page.circumstances(machines)])
    page.publish("cliffs", text, write=write, show=not as_json)
    if as_json:
        print(page.as_json(machines, results=kept))


if __name__ == "__main__":
    main()
