"""How a time is taken on a GPU: CUDA events around replayed graphs, in turns, over buffers larger than L2.

A graph holds one run for each set of buffers, so that no input is in the cache when its turn comes, and
launching is not what is timed. Where a candidate cannot be captured its plain runs are timed, and it says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

Run = Callable[[int], object]  # takes the number of a set of buffers
DEVICE = "cuda"
COPIED, MATRIX = 2 << 30, 8192  # bytes and rows, for the device's limits
_MOST_SETS = 12


@dataclass(frozen=True)
class Timing:
    """Seconds of one run, and how they were taken: "graph" or "events"."""

    seconds: float
    how: str


def sets(bytes_of_one: int) -> int:
    """How many sets of buffers are more than twice the second-level cache."""
    cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or 64 << 20
    return max(2, min(_MOST_SETS, -(-2 * cache // max(1, bytes_of_one))))


def interleaved(candidates: Mapping[str, Run], count: int, *, seconds: float = 0.4) -> dict[str, Timing]:
    """Time candidates over `count` sets of buffers, in turns, for about `seconds` in all."""
    replays = {name: _captured(run, count) for name, run in candidates.items()}
    taken: dict[str, list[float]] = {name: [] for name in replays}
    began = time.perf_counter()
    rounds = 0
    while rounds < 5 or (rounds < 200 and time.perf_counter() - began < seconds):
        marks = []
        for replay, _ in replays.values():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            replay()
            end.record()
            marks.append((begin, end))
        torch.cuda.synchronize()
        for name, (begin, end) in zip(replays, marks, strict=True):
            taken[name].append(begin.elapsed_time(end) / 1e3 / count)
        rounds += 1
    return {name: Timing(median(taken[name]), how) for name, (_, how) in replays.items()}


def _captured(run: Run, count: int) -> tuple[Callable[[], object], str]:
    def plain() -> None:
        for number in range(count):
            run(number)

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        plain()
        plain()
    torch.cuda.current_stream().wait_stream(aside)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            plain()
    except Exception as error:
        print(f"  not captured ({type(error).__name__}: {str(error).splitlines()[0][:100]})", flush=True)
        torch.cuda.synchronize()
        return plain, "events"
    return graph.replay, "graph"


def limits() -> dict[str, float]:
    """The device's bandwidth, bytes read and written a second, and its bfloat16 matrix rate, operations."""
    source = torch.empty(COPIED, dtype=torch.int8, device=DEVICE).random_()
    target = torch.empty_like(source)
    copy = _events(lambda: target.copy_(source), 10)
    size = MATRIX
    # Random numbers: a product of zeros runs faster than one of anything else.
    a, b = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for _ in "ab")
    product = _events(lambda: torch.mm(a, b), 10)
    return {"bytes_per_second": 2 * source.nbytes / copy, "operations_per_second": 2 * size**3 / product}


def _events(run: Callable[[], object], rounds: int) -> float:
    run(), run()
    marks = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        marks.append((begin, end))
    torch.cuda.synchronize()
    return median(begin.elapsed_time(end) for begin, end in marks) / 1e3


def distance(got: Tensor, right: Tensor) -> float:
    """‖got - right‖ / ‖right‖ in float32; infinite where anything is NaN."""
    away = (got.float() - right.float()).norm() / right.float().norm().clamp_min(1e-30)
    return float(away) if bool(away.isfinite()) else float("inf")
