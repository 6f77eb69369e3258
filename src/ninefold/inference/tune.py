"""The forms of each block measured on this machine, and remembered."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from ninefold.inference import planner, remember, replay
from ninefold.inference.fold import pack
from ninefold.inference.match import Block
from ninefold.ops.sequence import Sequence, Step, takes

_ROUNDS = 15


def choose(source: GraphModule, blocks: tuple[Block, ...], inputs: list[Any]) -> dict[Block, planner.Choice]:
    """The fastest form of each block on the values that the network has there for the example inputs.

    What the cache file knows is not measured again; what is measured goes into it.
    """
    known, fresh = remember.load(), False
    threads = torch.get_num_threads()
    images = next((int(leaf.shape[0]) for leaf in inputs if isinstance(leaf, Tensor) and leaf.dim() == 4), 1)
    several = [block for block in blocks if len(block.stages) > 1]
    keys = {block: remember.key(block, images, threads) for block in several}
    names = {block: {planner.in_words(form): form for form in planner.forms(block)} for block in several}

    def visit(block: Block, operands: list[Tensor], wanted: Tensor) -> None:
        nonlocal fresh
        if block in keys and set(known.get(keys[block], ())) != set(names[block]):
            runs = {name: _prepared(source, form, operands) for name, form in names[block].items()}
            known[keys[block]] = _medians(runs)
            fresh = True

    if any(set(known.get(keys[block], ())) != set(names[block]) for block in several):
        replay.blocks(source, several, inputs, visit)
    if fresh:
        remember.save(known)
    chosen = {}
    for block in several:
        taken = known.get(keys[block])
        if taken:
            told = ", ".join(f"{name} {1e3 * seconds:.3f} ms" for name, seconds in taken.items())
            best = min(taken, key=lambda name, taken=taken: taken[name])  # type: ignore[misc]
            chosen[block] = planner.Choice(names[block][best], f"measured {told}")
    return chosen


def _prepared(source: GraphModule, form: planner.Form, operands: list[Tensor]) -> Callable[[], object]:
    """A form as one call, as inside a network: no call from Python between its parts."""
    kernels: list[Any] = [pack(source, part) for part in form]
    x, *residual = operands
    images = [each.contiguous(memory_format=torch.channels_last) for each in (x, *residual)]
    if all(takes(kernel) for kernel in kernels):
        steps: list[Step] = []
        for number, kernel in enumerate(kernels):
            before = (0,) if number == 0 else (len(images) + number - 1,)
            extra = tuple(range(1, len(images))) if number == len(kernels) - 1 else ()
            steps.append(Step("layer", (*before, *extra), kernel))
        whole = Sequence(len(images), tuple(steps), ((len(images) + len(steps) - 1, 4),))
        return lambda: whole(*images)

    def call() -> Tensor:
        value = images[0]
        for kernel in kernels[:-1]:
            value = kernel(value)
        out: Tensor = kernels[-1](value, *images[1:])
        return out

    return call


def _medians(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(_ROUNDS + 2):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[2:]) for name, times in taken.items()}
