"""How a time is taken, once, for everyone.

A time on a shared machine means little alone, so what is compared takes turns: A B A B ..., many rounds, and
a ratio is the median of the ratios round by round. The limits to hold a figure against, peak arithmetic and
memory bandwidth, are measured here too, on the machine that runs.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from statistics import median
from typing import Any

from . import machine

Run = Callable[[], object]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


@dataclass(frozen=True)
class Timing:
    """One candidate's seconds, in the order of the rounds."""

    name: str
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds."""
        return median(self.samples)

    @property
    def best(self) -> float:
        """Seconds of the fastest round: what it can do, whatever else the machine did."""
        return min(self.samples)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        ordered = sorted(self.samples)
        quarter = len(ordered) // 4
        return (ordered[-1 - quarter] - ordered[quarter]) / 2 / self.median


@dataclass(frozen=True)
class Comparison:
    """What was timed in turns, under how many threads."""

    timings: tuple[Timing, ...]
    threads: int

    def __getitem__(self, name: str) -> Timing:
        for timing in self.timings:
            if timing.name == name:
                return timing
        raise KeyError(name)

    def ratio(self, slow: str, fast: str) -> float:
        """How many times faster `fast` is than `slow`: the median of the ratios within each round."""
        return median(a / b for a, b in zip(self[slow].samples, self[fast].samples, strict=True))

    def fastest(self, *names: str) -> str:
        """The one of `names` with the smallest median."""
        return min(names, key=lambda name: self[name].median)


def interleaved(
    candidates: Mapping[str, Run],
    *,
    threads: int | None = None,
    seconds: float = 3.0,
    rounds: tuple[int, int] = (15, 1000),
    progress: Callable[[float], None] | None = None,
) -> Comparison:
    """Time `candidates` in turns for about `seconds`, within the least and the most `rounds`.

    PyTorch runs with `threads` (None: as it is set) and gets its own number back. `progress` is told how much
    is done, from 0 to 1. Raises ValueError for no candidates, threads below 1, or rounds out of order.
    """
    if not candidates:
        raise ValueError("`candidates` must name something to time, got none")
    least, most = rounds
    if not 1 <= least <= most:
        raise ValueError(f"`rounds` must be (least, most) with 1 <= least <= most, got {rounds}")
    with torch_threads(threads) as count, _no_garbage_collection():
        for run in candidates.values():
            run()
            run()
        samples: dict[str, list[float]] = {name: [] for name in candidates}
        began = time.perf_counter()
        for done in range(1, most + 1):
            for name, run in candidates.items():
                start = time.perf_counter()
                run()
                samples[name].append(time.perf_counter() - start)
            spent = (time.perf_counter() - began) / max(seconds, 1e-9)
            if progress:
                progress(min(1.0, max(spent, done / most), done / least))
            if done >= least and spent >= 1:
                break
    return Comparison(tuple(Timing(name, tuple(taken)) for name, taken in samples.items()), count)


@contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """PyTorch's threads set to `count` (None: left alone) and set back afterwards; gives those in force."""
    import torch

    if count is not None and count < 1:
        raise ValueError(f"`threads` must be positive, got {count}")
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def pin(processors: set[int]) -> None:
    """Keep every thread of this process, now and later, on `processors`; ValueError if it may use none."""
    if sys.platform != "linux":
        return
    allowed = processors & os.sched_getaffinity(0)
    if not allowed:
        raise ValueError(f"`processors` must be among {sorted(os.sched_getaffinity(0))}, got {processors}")
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), allowed)


def keep_memory() -> bool:
    """Have this process keep the memory it frees; says whether the C library could be told (glibc's can).

    Unless something else on the heap prevents it, glibc returns a network's large buffers to the system after
    each call, and the page faults of fetching them again are a quarter of PyTorch's time on a small network.
    Whether that happens is chance, so everyone is timed without it.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(set_option(_M_TRIM_THRESHOLD, 2**31 - 1) and set_option(_M_MMAP_THRESHOLD, 32 << 20))


@dataclass(frozen=True)
class Bandwidth:
    """Reading and writing arrays of `size` bytes in all, which live in `level`."""

    level: str
    size: int
    gigabytes_per_second: float


@dataclass(frozen=True)
class Limits:
    """What this machine can do at best with `threads`, and whose code found out."""

    threads: int
    gflops: float
    bandwidths: tuple[Bandwidth, ...]
    measured_with: str

    def share_of_peak(self, multiplications: int, seconds: float) -> float:
        """The share of peak arithmetic reached; one multiplication comes with one addition."""
        return 2 * multiplications / seconds / 1e9 / self.gflops


def limits(threads: int = 1, *, seconds: float = 0.2, tries: int = 3) -> Limits:
    """Measure peak arithmetic and bandwidth with `threads`: the best of `tries`, each of about `seconds`.

    With the compiled extension its own loops measure; without it PyTorch's matmul and copy stand in, which
    stay below the real limits. Raises ImportError if there is neither, ValueError for threads below 1.
    """
    if threads < 1:
        raise ValueError(f"`threads` must be positive, got {threads}")
    kernels = extension()
    if kernels is not None and kernels.instruction_sets():
        peak, copy, source = kernels.fma_peak, kernels.copy_bandwidth, "ninefold's own loops"
    else:
        peak, copy, source = _matmul_peak, _copy_bandwidth, "PyTorch's matmul and copy, a lower bound"
    operations = max(peak(threads, seconds) for _ in range(tries))
    bandwidths = tuple(
        Bandwidth(level, size, max(copy(size // threads, threads, seconds) for _ in range(tries)) / 1e9)
        for level, size in _working_sets(threads).items()
    )
    return Limits(threads, operations / 1e9, bandwidths, source)


def better(one: Limits, other: Limits) -> Limits:
    """The higher figures of two measurements of one machine: others' work on it only ever lowers them."""
    bandwidths = tuple(
        max(pair, key=lambda each: each.gigabytes_per_second)
        for pair in zip(one.bandwidths, other.bandwidths, strict=True)
    )
    return replace(one, gflops=max(one.gflops, other.gflops), bandwidths=bandwidths)


def extension() -> Any | None:
    """The compiled extension, or None where it was not built or does not load."""
    # PyTorch first, where there is one: the extension then runs on its OpenMP runtime.
    with suppress(ImportError):
        import torch  # noqa: F401
    try:
        return import_module("ninefold._kernels")
    except ImportError:
        return None


def _working_sets(threads: int) -> dict[str, int]:
    caches = machine.caches()
    sets = {}
    if "L2" in caches:
        sets["L2"] = caches["L2"] // 2 * threads
    if "L3" in caches and caches["L3"] // 2 > sets.get("L2", 0):
        sets["L3"] = caches["L3"] // 2
    # Four times the last cache is out of its reach; more than half a gigabyte would only take long.
    sets["DRAM"] = min(max(4 * max(caches.values(), default=0), 64 << 20), 512 << 20)
    return sets


def _matmul_peak(threads: int, seconds: float) -> float:
    import torch

    size = 1024
    a, b = (torch.rand(size, size, dtype=torch.float32) for _ in range(2))
    return 2 * size**3 / _best(lambda: torch.mm(a, b), threads, seconds)


def _copy_bandwidth(size: int, threads: int, seconds: float) -> float:
    import torch

    source = torch.rand(size * threads // 8, dtype=torch.float32)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source), threads, seconds)


def _best(run: Run, threads: int, seconds: float) -> float:
    comparison = interleaved({"": run}, threads=threads, seconds=seconds, rounds=(3, 100_000))
    return min(comparison[""].samples)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
