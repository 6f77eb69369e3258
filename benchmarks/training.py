"""A training step, float32, SGD: PyTorch's three ways against Ninefold, in time and in memory.

Each way trains in a process of its own and the processes take turns; a factor is the median of the ratios
turn by turn. Before its time counts, a way's first gradient is held against float64's: the run fails if
Ninefold's is further from it than four times the furthest of PyTorch's own. Then depthwise convolutions'
gradients alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean, median

import click
import numpy as np
import torch
from torch.nn import functional

import page
from ninefold import census, measure, models, ops, surroundings
from ops import read
from trainees import NINEFOLD, PLAIN, RIGHT, WAYS, First, Task, Trainee

# Passes over the convolutions' outputs that a step makes: forward each is written and read; backward it is
# read with its gradient, which was written, and once more as the next convolution's image.
PASSES = 7
KERNELS = (3, 5, 7)
_NETWORKS = Path(__file__).parent / "shapes" / "training.txt"
_ERROR = 4.0
_ROUNDS = 5, 40
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Network:
    """A row of shapes/training.txt."""

    name: str
    size: int
    floor: float
    aim: float


@dataclass(frozen=True)
class Result:
    """One network with one number of threads: seconds of each way's turns, bytes, errors; or why not."""

    task: Task
    multiplications: int
    outputs: int
    turns: dict[str, list[float]]
    memory: dict[str, int | None]
    errors: dict[str, float]
    failed: dict[str, str]

    def seconds(self, name: str) -> float:
        """The median over the turns."""
        return median(self.turns[name])

    def factor(self, slow: str, fast: str) -> float:
        """How many times faster `fast` is, turn by turn."""
        return median(a / b for a, b in zip(self.turns[slow], self.turns[fast], strict=True))

    @property
    def best_plain(self) -> str:
        """The fastest of PyTorch's ways."""
        return min((name for name in PLAIN if name in self.turns), key=self.seconds)

    @property
    def share_of_memory(self) -> float | None:
        """Ninefold's peak over that of PyTorch's eager mode, the better of its formats."""
        eager = [size for name in PLAIN[:2] if (size := self.memory.get(name)) is not None]
        ours = self.memory.get(NINEFOLD)
        return ours / min(eager) if eager and ours is not None else None


@dataclass(frozen=True)
class Gradient:
    """The gradients of one depthwise convolution: seconds by contender and the factor over PyTorch's best."""

    kernel: int
    channels: int
    size: int
    stride: int
    threads: int
    seconds: dict[str, float]
    factor: float


def wanted() -> list[Network]:
    """The networks to train, with the factors that each should reach and might."""
    lines = _NETWORKS.read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    return [Network(f"timm:{name}", int(size), float(low), float(high)) for name, size, low, high in rows]


def run(task: Task, names: list[str], *, seconds: float) -> Result:
    """Train one network every way; ArithmeticError where Ninefold's gradient is wrong."""
    right = _alone(RIGHT, task)
    if isinstance(right, str):
        raise RuntimeError(f"{task.network}: {RIGHT}: {right}")
    errors, memory, failed, runners = {}, {}, {}, []
    with ExitStack() as stack:
        for name in names:  # one by one: compilers are hungry
            stack.callback((trainee := Trainee(name, task)).close)
            first = trainee.first()
            if isinstance(first, str):
                failed[name] = first
                continue
            errors[name], memory[name] = _error(first, right), first.memory
            runners.append(trainee)
        if NINEFOLD in failed:
            raise RuntimeError(f"{task.network}: {NINEFOLD}: {failed[NINEFOLD]}")
        # The furthest of PyTorch's, for a value that rounding moves over a kink of its activation turns a
        # gradient on or off, in one way and not in another: mobilenetv3_large_100 is off by up to 9e-4
        # (NCHW), 5e-3 (channels-last) and 1e-3 (Ninefold), with smooth activations by 5e-6, 2e-5 and 5e-6.
        allowed = _ERROR * max(errors[name] for name in PLAIN if name in errors)
        if not errors[NINEFOLD] <= allowed:
            told = f"the gradient is off by {errors[NINEFOLD]:.1e}, PyTorch's by {allowed / _ERROR:.1e}"
            raise ArithmeticError(f"{task.network}: {told}")
        turns: dict[str, list[float]] = {trainee.name: [] for trainee in runners}
        spent = 0.0
        while len(turns[NINEFOLD]) < _ROUNDS[0] or (
            len(turns[NINEFOLD]) < _ROUNDS[1] and spent < seconds * len(runners)
        ):
            for trainee in runners:
                taken = trainee.turn()
                if isinstance(taken, str):
                    raise RuntimeError(f"{task.network}: {trainee.name}: {taken}")
                turns[trainee.name].append(taken)
                spent += taken
    multiplications, outputs = _arithmetic(task)
    return Result(task, multiplications, outputs, turns, memory, errors, failed)


def gradients(kernel: int, channels: int, size: int, stride: int, *, batch: int, threads: int) -> Gradient:
    """Time a depthwise convolution's gradients to image and weight; ArithmeticError where one is wrong."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, channels, size, size, generator=generator)
    weight = torch.randn(channels, 1, kernel, kernel, generator=generator)
    options = {"stride": stride, "padding": kernel // 2}

    def backward(call: Callable[..., torch.Tensor], *, last: bool) -> Callable[[], tuple[torch.Tensor, ...]]:
        memory_format = torch.channels_last if last else torch.contiguous_format
        image, filters = (t.contiguous(memory_format=memory_format).requires_grad_() for t in (x, weight))
        y = call(image, filters, **options)
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        grad = grad.contiguous(memory_format=memory_format)
        return lambda: torch.autograd.grad(y, (image, filters), grad, retain_graph=True)

    def plain(image: torch.Tensor, filters: torch.Tensor, **named: int) -> torch.Tensor:
        return functional.conv2d(image, filters, groups=channels, **named)

    runs = {
        PLAIN[0]: backward(plain, last=False),
        PLAIN[1]: backward(plain, last=True),
        NINEFOLD: backward(ops.depthwise_conv2d, last=True),
    }
    for ours, theirs in zip(runs[NINEFOLD](), runs[PLAIN[0]](), strict=True):
        if not (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max():
            raise ArithmeticError(
                f"depthwise {kernel}×{kernel}, {channels} channels of {size}²: wrong gradient"
            )
    timed = measure.interleaved(runs, threads=threads, seconds=0.6, rounds=(5, 200))
    seconds = {name: timed[name].median for name in runs}
    best = min(PLAIN[:2], key=seconds.__getitem__)
    return Gradient(kernel, channels, size, stride, threads, seconds, timed.ratio(best, NINEFOLD))


def figures(results: list[Result], names: list[str], limits: measure.Limits) -> str:
    """One table for one number of threads: milliseconds and megabytes."""
    goals = {network.name: network for network in wanted()}
    head = ["ms", *names, "arithmetic", "memory", "over PyTorch", "wanted", "aim", "MB eager", "MB", "share"]
    rows = []
    for result in results:
        goal, share = goals.get(result.task.network), result.share_of_memory
        eager = [size for name in PLAIN[:2] if (size := result.memory.get(name))]
        ours = result.memory.get(NINEFOLD)
        rows.append(
            [
                result.task.network.removeprefix("timm:"),
                *(f"{1e3 * result.seconds(name):.0f}" if name in result.turns else "–" for name in names),
                f"{2e3 * result.multiplications / limits.gflops / 1e9:.0f}",
                f"{1e3 * _traffic(result, limits):.0f}",
                f"**{result.factor(result.best_plain, NINEFOLD):.2f}×** {result.best_plain}",
                f"{goal.floor}×" if goal else "–",
                f"{goal.aim}×" if goal else "–",
                f"{min(eager) / _MEGABYTE:.0f}" if eager else "–",
                f"{ours / _MEGABYTE:.0f}" if ours else "–",
                f"{share:.2f}" if share is not None else "–",
            ]
        )
    return page.table(head, rows)


def gradient_figures(found: list[Gradient]) -> str:
    """The depthwise gradients of one number of threads, in milliseconds, and their means by kernel size."""
    names = [PLAIN[0], PLAIN[1], NINEFOLD]
    rows = [
        [
            f"{each.kernel}×{each.kernel}, {each.channels} × {each.size}², stride {each.stride}",
            *(f"{1e3 * each.seconds[name]:.2f}" for name in names),
            f"**{each.factor:.2f}×**",
        ]
        for each in found
    ]
    means = [
        f"{size}×{size} {geometric_mean([each.factor for each in found if each.kernel == size]):.2f}×"
        for size in sorted({each.kernel for each in found})
    ]
    overall = geometric_mean([each.factor for each in found])
    worst = min(each.factor for each in found)
    table = page.table(["ms", *names, "factor"], rows)
    mean = f"Geometric mean **{overall:.2f}×** (wanted 1.7×, aim 3×): {', '.join(means)}; worst {worst:.2f}×."
    return f"{table}\n\n{mean}"


def _alone(name: str, task: Task) -> First | str:
    trainee = Trainee(name, task)
    try:
        return trainee.first()
    finally:
        trainee.close()


def _error(first: First, right: First) -> float:
    """The distance of a gradient from the right one, as a share of the right one's length."""
    return float(np.linalg.norm(first.gradient - right.gradient) / np.linalg.norm(right.gradient))


def _arithmetic(task: Task) -> tuple[int, int]:
    """Multiplications of a step, and the bytes of all convolutions' outputs.

    Forward, gradient to the image and gradient to the weight are as many each; the first image needs none.
    """
    model = models.load(task.network).model
    layers = census.take(model, (torch.zeros(1, 3, task.size, task.size),)).layers
    forward = [layer.shape.multiplications for layer in layers]
    outputs = sum(np.prod(layer.shape.output_shape) for layer in layers)
    return task.batch * (3 * sum(forward) - forward[0]), int(4 * task.batch * outputs)


def _traffic(result: Result, limits: measure.Limits) -> float:
    """Seconds of the passes over the outputs, at the speed of main memory."""
    memory = max(limits.bandwidths, key=lambda each: each.size)
    return PASSES * result.outputs / memory.gigabytes_per_second / 1e9


@click.command(help=__doc__)
@click.option("--threads", type=click.IntRange(min=1), multiple=True, default=(1, 2), show_default=True)
@click.option("--network", "chosen", multiple=True, help="Instead of those of shapes/training.txt.")
@click.option("--batch", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--size", type=click.IntRange(min=1), help="Of the images, instead of the network's own.")
@click.option("--way", "ways", type=click.Choice([*WAYS][:-1]), multiple=True, help="Only these.")
@click.option("--seconds", default=20.0, show_default=True, help="Of each way, on each network.")
@click.option("--layers/--no-layers", default=True, help="The gradients of depthwise convolutions alone.")
@click.option("--write", is_flag=True, help="Keep page and data in benchmarks/results.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def main(
    threads: tuple[int, ...],
    chosen: tuple[str, ...],
    batch: int,
    size: int | None,
    ways: tuple[str, ...],
    seconds: float,
    layers: bool,
    write: bool,
    as_json: bool,
) -> None:
    """Measure every network with every number of threads."""
    names = [
        name for name in WAYS if name != RIGHT and (not ways or name in ways or name in (PLAIN[0], NINEFOLD))
    ]
    listed = {network.name: network.size for network in wanted()}
    sizes = {name: size or listed.get(name, 224) for name in (chosen or listed)}
    limits = {count: measure.limits(count) for count in threads}
    results: list[Result] = []
    for name, pixels in sizes.items():
        for count in threads:
            print(f"{name}, {count} ×", file=sys.stderr, flush=True)
            results.append(run(Task(name, batch, pixels, count), names, seconds=seconds))
    found: list[Gradient] = []
    if layers:
        measure.keep_memory()
        for count in threads:
            for kernel in KERNELS:
                shapes = dict.fromkeys(
                    (row.in_channels, row.size, row.stride) for row in read("mobilenet_v1")
                )
                found += [gradients(kernel, *shape, batch=batch, threads=count) for shape in shapes]
    parts, machines = [], []
    for count in threads:
        limits[count] = measure.better(limits[count], measure.limits(count))
        machines.append(surroundings.describe(limits[count]))
        own = [result for result in results if result.task.threads == count]
        parts.append(f"## {count} thread{'s' if count != 1 else ''}\n\n{figures(own, names, limits[count])}")
        alone = [each for each in found if each.threads == count]
        if alone:
            parts.append(f"Gradients of depthwise convolutions, batch {batch}:\n\n{gradient_figures(alone)}")
    notes = [page.circumstances(machines), *_notes(results)]
    title = f"# A training step, float32, batch {batch}, SGD\n\n`{page.command()}`\n\n{_READING}"
    page.publish("training", "\n\n".join([title, *parts, "\n".join(notes)]), write=write, show=not as_json)
    data = {
        "results": [asdict(result) for result in results],
        "gradients": [asdict(each) for each in found],
    }
    if as_json:
        print(page.as_json(machines, **data))
    if write:
        page.keep_data("training", machines, **data)


_READING = (
    "arithmetic: the step's multiplications at the machine's peak; memory: seven passes over the "
    "convolutions' outputs at the speed of main memory; both limits in milliseconds. MB: what a step takes "
    "at its peak above the model and its optimiser, of PyTorch's eager mode (the better format) and of "
    "Ninefold, and the share (wanted 0.55, aim 0.4). A factor is over the fastest of PyTorch's three ways, "
    "the median of the ratios turn by turn."
)


def _notes(results: list[Result]) -> list[str]:
    lines = []
    for result in results:
        where = f"{result.task.network}, {result.task.threads} ×"
        told = ", ".join(f"{name} {error:.1e}" for name, error in result.errors.items())
        lines.append(f"- distance of the first gradient from float64's, {where}: {told}")
        lines += [f"- {where}: no time for {name}: {reason}" for name, reason in result.failed.items()]
    return lines


if __name__ == "__main__":
    main()
