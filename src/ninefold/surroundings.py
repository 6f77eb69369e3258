"""Where a command runs, as plain data: versions, the instruction set in use, the machine and its limits."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from ninefold import __version__, machine, measure
from ninefold.reporting.data import Bandwidth, Machine

FORCED = "NINEFOLD_ISA"


def versions(*more: str) -> tuple[tuple[str, str], ...]:
    """Ninefold's, Python's and PyTorch's versions, and those of the packages in `more` that are installed."""
    found = [("ninefold", __version__), ("python", platform.python_version())]
    for package in ("torch", *more):
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return tuple(found)


def instruction_sets() -> tuple[str, ...]:
    """Those that were compiled and that this processor has, best first; none without the extension."""
    kernels = measure.extension()
    return tuple(kernels.instruction_sets()) if kernels is not None else ()


def instruction_set() -> str | None:
    """The one in use; None without the extension. Raises ValueError where NINEFOLD_ISA asks for another."""
    available = instruction_sets()
    if not available:
        return None
    asked = os.environ.get(FORCED)
    if asked and asked not in available:
        raise ValueError(f"`{FORCED}` must be one of {', '.join(available)} here, got {asked!r}")
    kernels = measure.extension()
    assert kernels is not None
    return str(kernels.instruction_set())


def describe(limits: measure.Limits, *packages: str) -> Machine:
    """This machine with its limits, and the versions of what runs on it."""
    return Machine(
        processor=machine.processor(),
        threads=limits.threads,
        instruction_set=instruction_set(),
        gflops=limits.gflops,
        bandwidths=tuple(
            Bandwidth(each.level, each.size, each.gigabytes_per_second) for each in limits.bandwidths
        ),
        measured_with=limits.measured_with,
        versions=versions(*packages),
    )
