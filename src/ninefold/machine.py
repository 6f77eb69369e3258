"""What this machine is, read from the operating system: processor, caches, mapped OpenMP runtimes."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

_CACHE = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_OPENMP = re.compile(r"/[^/\s]*(?:gomp|iomp5|libomp)[^/\s]*\.so[^/\s]*$")


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """How many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def caches() -> dict[str, int]:
    """Bytes of the data caches by name: L1, L2 (of one core) and L3 (as shared); empty where nobody tells."""
    found = {}
    for index in sorted(_CACHE.glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        amount = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind != "Instruction" and amount:
            found[f"L{level}"] = int(amount[1]) * _UNITS[amount[2]]
    return found


def openmp_runtimes() -> tuple[str, ...]:
    """Files of the OpenMP runtimes mapped into this process; two of them fight for the cores."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return ()
    return tuple(sorted({line.split(maxsplit=5)[5] for line in lines if _OPENMP.search(line)}))
