"""Fused or separate, measured block by block."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ninefold.inference import replay
from ninefold.inference.fold import pack
from ninefold.inference.match import Block

_ROUNDS = 15


def separate_where_faster(
    source: GraphModule,
    kernels: dict[Block, nn.Module],
    inputs: list[Any],
) -> dict[Block, nn.Module]:
    """Replace each fused block by its two stages where these are faster on the example inputs.

    The two take turns on the values that the network has there; the medians are compared.
    """
    chosen = {block: [(block, kernel)] for block, kernel in kernels.items()}

    def visit(block: Block, operands: list[Tensor], wanted: Tensor) -> None:
        if len(block.stages) == 1:
            return
        # An inverted residual against its expansion and its separable pair; a pair against its two stages.
        parts = [Block(block.stages[:1]), Block(block.stages[1:], block.residual, block.addition)]
        first, last = [pack(source, part) for part in parts]
        fused, (x, *residual) = kernels[block], operands
        x = x.contiguous(memory_format=torch.channels_last)
        if _median_ratio(lambda: fused(x, *residual), lambda: last(first(x), *residual)) > 1:
            chosen[block] = list(zip(parts, (first, last), strict=True))

    replay.blocks(source, kernels, inputs, visit)
    return {block: kernel for pairs in chosen.values() for block, kernel in pairs}


def _median_ratio(one: Callable[[], Tensor], other: Callable[[], Tensor]) -> float:
    taken: tuple[list[float], list[float]] = [], []
    for _ in range(_ROUNDS + 2):
        for run, times in zip((one, other), taken, strict=True):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
    return statistics.median(taken[0][2:]) / statistics.median(taken[1][2:])
