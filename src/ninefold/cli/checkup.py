"""What the doctor finds: the machine, its limits, what is installed, what would fall back."""

from __future__ import annotations

import dataclasses
from typing import Any

from ninefold import machine, measure, surroundings
from ninefold.reporting.data import Machine

from . import progress

_ALWAYS = (
    "tensors that are not float32, or not on the CPU",
    "under autocast: PyTorch's own mixed precision",
)
_NO_EXTENSION = "every operator: the compiled kernels are not installed for this platform"
_NO_KERNELS = "every operator: this processor has none of the instruction sets the kernels were compiled for"
_NO_TORCH = "nothing, for PyTorch is not installed: counting works, operators and networks do not"


def examine(threads: int | None = None) -> dict[str, Any]:
    """Everything the doctor says, as plain data."""
    return {
        "processor": machine.processor(),
        "cores": machine.cores(),
        "caches": machine.caches(),
        "instruction_set": surroundings.instruction_set(),
        "instruction_sets": list(surroundings.instruction_sets()),
        "extension": measure.extension() is not None,
        "threads": _torch_threads(),
        "versions": dict(surroundings.versions("numpy", "timm", "torchvision", "onnxruntime", "openvino")),
        "limits": [dataclasses.asdict(each) for each in _limits(threads)],
        "openmp_runtimes": list(machine.openmp_runtimes()),
        "falls_back": list(_falls_back()),
        "advice": list(_advice()),
    }


def _torch_threads() -> int | None:
    try:
        import torch
    except ImportError:
        return None
    return torch.get_num_threads()


def _limits(threads: int | None) -> tuple[Machine, ...]:
    wanted = (threads,) if threads else tuple(sorted({1, _torch_threads() or machine.cores()}))
    found = []
    with progress.steps() as steps:
        for count in wanted:
            steps.step(f"measuring this machine's limits, threads: {count}")
            try:
                found.append(surroundings.describe(measure.limits(count)))
            except ImportError:
                return ()
    return tuple(found)


def _falls_back() -> tuple[str, ...]:
    if _torch_threads() is None:
        return (_NO_TORCH,)
    if measure.extension() is None:
        return (_NO_EXTENSION,)
    if not surroundings.instruction_sets():
        return (_NO_KERNELS,)
    return _ALWAYS


def _advice() -> tuple[str, ...]:
    runtimes = machine.openmp_runtimes()
    if len(runtimes) > 1:
        return (f"{len(runtimes)} OpenMP runtimes fight for the cores of this process: import torch first",)
    return ()
