"""Which of several ways to compute one thing is taken: the fastest, measured when the thing is first met.

A way is a Triton kernel with certain block sizes, or PyTorch's own operators, cuDNN's among them. The fastest
on the tensors at hand is taken from then on, for the same task on the same device, so nothing stays slower
than what it replaces and the same call gives the same bits. Choices are kept in a file (`choices.py`).

Where nothing can be timed (a stream that is being captured into a CUDA graph, a trace, the interpreter) the
way that is known is taken, else the first, and nothing is remembered.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ninefold.gpu import choices

Way = Callable[[], Any]

PYTORCH = "pytorch"  # the name of the way without a kernel of ours
_ROUNDS = 5
_HEAD_START = 4_000_000  # clock cycles that the device sleeps, so that launching is not what is timed
_FLUSH = 256 << 20  # bytes written between two runs: more than any cache of the device

_log = logging.getLogger("ninefold")
_known: dict[tuple[torch.device, str], str] = {}
_lock = threading.RLock()


def run(task: str, ways: Mapping[str, Way], like: Tensor) -> Any:
    """Do a task the fastest way; a way that cannot be compiled or started gives way to the next."""
    name = choose(task, ways, like)
    try:
        return ways[name]()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        rest = {other: way for other, way in ways.items() if other != name}
        if not rest or not _is_real(like):
            raise
        _log.warning("%s as %s failed, others are tried: %s", task, name, _first_line(error))
        made = run(f"{task}, not {name}", rest, like)
        _known[like.device, task] = choose(f"{task}, not {name}", rest, like)
        return made


def choose(task: str, ways: Mapping[str, Way], like: Tensor) -> str:
    """The name of the way to take for `task`, whose tensors lie where `like` does."""
    first = next(iter(ways))
    if len(ways) == 1:
        return first
    key = like.device, task
    name = _known.get(key, "")
    if name in ways:
        return name
    measuring = can_measure(like)
    if not measuring and not (like.device.type == "cuda" and torch.cuda.is_available()):
        return first
    with _lock:
        found = choices.of(like.device).get(task, "")
        if found not in ways:
            if not measuring:
                return first
            with torch.cuda.device(like.device) if like.device.type == "cuda" else nullcontext():
                found = _fastest(task, ways, like)
            choices.keep(like.device, task, found)
        _known[key] = found
    return found


def can_measure(like: Tensor) -> bool:
    """Whether work on this tensor can be timed now."""
    return _is_real(like) and not torch.cuda.is_current_stream_capturing()


def forget() -> None:
    """Forget what was measured in this process; the file stays."""
    _known.clear()
    choices.forget()


def _is_real(like: Tensor) -> bool:
    plain = type(like) in (Tensor, torch.nn.Parameter) and like.device.type == "cuda"
    return plain and os.environ.get("TRITON_INTERPRET") != "1"


def _fastest(task: str, ways: Mapping[str, Way], like: Tensor) -> str:
    able = {}
    for name, way in ways.items():
        try:
            way()
            way()
            torch.cuda.synchronize()
            able[name] = way
        except Exception as error:
            _log.warning("%s as %s cannot be measured: %s", task, name, _first_line(error))
    if not able:
        return next(iter(ways))
    taken = _times(able, like.device)
    _log.debug("%s: %s", task, ", ".join(f"{name} {1e6 * taken[name]:.0f} µs" for name in taken))
    return min(taken, key=lambda name: taken[name])


def _times(ways: Mapping[str, Way], device: torch.device) -> dict[str, float]:
    """Seconds of each way: the median of a few rounds in turns, each run with cold caches."""
    scratch = torch.empty(_FLUSH, dtype=torch.int8, device=device)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        marks = []
        for way in ways.values():
            # Before each, and 2 ms: with 0.5 ms once for all of them the last ones, of a dozen kernels each,
            # were found to take what the processor takes to start them (300 to 400 µs for 60).
            torch.cuda._sleep(_HEAD_START)
            scratch.zero_()
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            way()
            end.record()
            marks.append((begin, end))
        torch.cuda.synchronize()
        for name, (begin, end) in zip(ways, marks, strict=True):
            taken[name].append(begin.elapsed_time(end) / 1e3)
    return {name: median(seconds) if seconds else math.inf for name, seconds in taken.items()}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
