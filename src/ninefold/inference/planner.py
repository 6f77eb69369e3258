"""Which stages of a block run fused: the forms it can take, and what each should cost on this machine.

A stage takes the longer of two: its multiplications at the share of the peak that its kernels reach, and
its memory traffic, weights, input and output once, each at the bandwidth of the smallest cache that holds it.
What stays inside a fused block lies in the second-level cache; what leaves one part and enters the next lies
wherever its size puts it. The estimate decides; `tune=True` measures instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ninefold import machine, measure
from ninefold.inference.match import Block, Stage

# A form is how the stages are grouped: one block for each call of a kernel.
Form = tuple[Block, ...]

# The share of the FMA peak that the kernels reach where memory does not hold them (benchmarks/results).
_SHARES = {"depthwise": 0.5, "pointwise": 0.85, "convolution": 0.85}
# A form must promise this much before the fused one is given up: the estimate is no better than that.
_MARGIN = 0.9
_SECONDS = 0.004  # of each measurement of the machine


@dataclass(frozen=True)
class Level:
    """A memory: bytes that it holds, and bytes per second."""

    size: float
    bandwidth: float


@dataclass(frozen=True)
class Costs:
    """What this machine does with some threads: multiplications per second; its memories, fastest first."""

    multiplications: float
    levels: tuple[Level, ...]

    def moving(self, size: float, least: float = 0.0) -> float:
        """Seconds to read or write `size` bytes of an array of that size, or of `least`."""
        level = next((each for each in self.levels if max(size, least) <= each.size), self.levels[-1])
        return size / level.bandwidth


@dataclass(frozen=True)
class Choice:
    """The form chosen for a block, and why, in words."""

    form: Form
    why: str


def forms(block: Block) -> tuple[Form, ...]:
    """The ways to run a block, the fused one first: each stage alone, or with the one after it."""
    stages, rest = block.stages, (block.residual, block.addition)
    if len(stages) == 1:
        return ((block,),)
    apart = (*(Block((stage,)) for stage in stages[:-1]), Block(stages[-1:], *rest))
    if len(stages) == 2:
        return (block,), apart
    return (block,), (Block(stages[:1]), Block(stages[1:], *rest)), apart


def on_gpu(block: Block) -> Choice:
    """The form on a GPU: an expansion by itself, a depthwise stage with the pointwise one behind it."""
    several = forms(block)
    begins_wide = len(several) > 1 and not block.stages[0].is_depthwise
    return Choice(several[1] if begins_wide else several[0], "")


def in_words(form: Form) -> str:
    """A form as "pointwise | depthwise + pointwise": a bar where one call ends and the next begins."""
    return " | ".join(" + ".join(kind(stage) for stage in part.stages) for part in form)


def kind(stage: Stage) -> str:
    """What a stage is: "depthwise", "pointwise" or "convolution"."""
    return "depthwise" if stage.is_depthwise else "pointwise" if stage.shape.is_pointwise else "convolution"


def estimate(form: Form, costs: Costs, images: float = 1.0) -> float:
    """Seconds that a form takes; `images` is the batch over that of the traced shapes."""
    total = 0.0
    for part in form:
        for number, stage in enumerate(part.stages):
            shape = stage.shape
            arithmetic = images * shape.multiplications / costs.multiplications / _SHARES[kind(stage)]
            source, target = (images * size for size in _sizes(stage))
            moved = costs.moving(4.0 * shape.parameters)
            near = costs.levels[0].bandwidth
            moved += source / near if number else costs.moving(source)
            moved += target / near if number < len(part.stages) - 1 else costs.moving(target)
            total += max(arithmetic, moved)
        if part.residual is not None:
            total += costs.moving(images * _sizes(part.stages[-1])[1])
    return total


def choose(block: Block, costs: Costs, images: float = 1.0) -> Choice:
    """The form with the smallest estimate; the fused one unless another is clearly better."""
    estimates = [(estimate(form, costs, images), form) for form in forms(block)]
    fused = estimates[0][0]
    best, form = min(estimates, key=lambda pair: pair[0])
    if best >= _MARGIN * fused:
        best, form = estimates[0]
    told = ", ".join(f"{in_words(each)} {1e3 * seconds:.3f} ms" for seconds, each in estimates)
    return Choice(form, f"estimated {told}")


def costs() -> Costs:
    """This machine's, with the threads that PyTorch has now; measured once, in some 50 ms."""
    return _costs(torch.get_num_threads(), instruction_set())


def instruction_set() -> str:
    """The one whose kernels run; "" without the extension."""
    kernels = measure.extension()
    return str(kernels.instruction_set()) if kernels is not None else ""


@lru_cache(maxsize=16)
def _costs(threads: int, isa: str) -> Costs:
    caches = machine.caches()
    second = float(caches.get("L2", 1 << 20)) * threads
    third = float(max(caches.get("L3", 0), 2 * second))
    kernels: Any = measure.extension()
    if kernels is None or not isa:
        # Nothing of ours runs then, and nothing is estimated: any machine will do.
        return Costs(5e10, (Level(second, 1e11), Level(third, 5e10), Level(float("inf"), 2e10)))

    def bandwidth(size: float) -> float:
        return max(float(kernels.copy_bandwidth(int(size) // threads, threads, _SECONDS)) for _ in range(2))

    peak = max(kernels.fma_peak(threads, _SECONDS) for _ in range(2))
    # A working set of half a cache is surely in it, with what else is there.
    near, far, memory = bandwidth(second / 2), bandwidth(third / 2), bandwidth(min(4 * third, 64 << 20))
    levels = (
        Level(second / 2, near),
        Level(third / 2, min(near, far)),
        Level(float("inf"), min(near, far, memory)),
    )
    return Costs(peak / 2, levels)


def _sizes(stage: Stage) -> tuple[float, float]:
    """Bytes of a stage's input and of its output, for the traced batch."""
    shape = stage.shape
    (height, width), (tall, wide) = shape.input_size, shape.output_size
    count = 4.0 * shape.batch
    return count * shape.in_channels * height * width, count * shape.out_channels * tall * wide
