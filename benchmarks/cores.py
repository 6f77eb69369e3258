"""A core for each thread that computes.

A scheduler that packs threads may keep two of them on one core while another idles: with two threads,
MobileNetV1 took 5.5 ms or 20, whichever library ran it, and which one was hit was chance.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")
_SECONDS = 0.2  # for the threads that compute to show: processor time is counted in hundredths


def spread(run: Callable[[], object], threads: int) -> None:
    """Run a few times, then bind the `threads` busiest threads of this process to a core each.

    Does nothing where there are fewer cores, or no way to tell.
    """
    if not hasattr(os, "sched_setaffinity") or not _TASKS.is_dir():
        return
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        return
    before = _spent()
    start = time.perf_counter()
    while time.perf_counter() - start < _SECONDS:
        run()
    spent = {task: ticks - before.get(task, 0) for task, ticks in _spent().items()}
    busiest = sorted(spent, key=spent.__getitem__, reverse=True)
    for task, core in zip(busiest, cores[:threads], strict=False):
        with suppress(ProcessLookupError):
            os.sched_setaffinity(task, {core})


def _spent() -> dict[int, int]:
    """Clock ticks that each thread has run."""
    ticks = {}
    for task in _TASKS.iterdir():
        # A thread may end meanwhile.
        with suppress(FileNotFoundError, ProcessLookupError):
            # The name, in parentheses, may hold spaces; user and system time are the 12th and 13th behind it.
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            ticks[int(task.name)] = int(fields[11]) + int(fields[12])
    return ticks
