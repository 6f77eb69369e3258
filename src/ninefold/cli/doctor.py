"""`ninefold doctor`: what runs here, how fast this machine could be, and what would fall back."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from ninefold import machine, measure
from ninefold.report.data import Machine

from . import progress, surroundings

_ALWAYS = (
    "tensors that are not float32, or not on the CPU",
    "under autocast: PyTorch's own mixed precision",
)
_NO_EXTENSION = "every operator: the compiled kernels are not installed for this platform"
_NO_KERNELS = "every operator: this processor has none of the instruction sets the kernels were compiled for"
_NO_TORCH = "nothing, for PyTorch is not installed: counting works, operators and networks do not"


@click.command()
@click.option("--threads", type=click.IntRange(min=1), help="Measure with so many; by default one and all.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def command(threads: int | None, as_json: bool) -> None:
    """Show the instruction set, threads, versions, this machine's limits, and what falls back to PyTorch.

    Peak arithmetic and memory bandwidth are measured, which takes a few seconds; they are the limits that
    every benchmark is read against.

    Example: ninefold doctor --threads 1
    """
    findings = examine(threads)
    if as_json:
        click.echo(json.dumps(findings, indent=2, ensure_ascii=False))
    else:
        _print(findings)


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


def _print(findings: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _lines(findings):
        table.add_row(name, text)
    Console(markup=False, highlight=False).print(table)


def _lines(findings: dict[str, Any]) -> list[tuple[str, str]]:
    caches = ", ".join(f"{name} {size // 1024:,} KiB" for name, size in findings["caches"].items())
    others = [name for name in findings["instruction_sets"] if name != findings["instruction_set"]]
    using = findings["instruction_set"] or "PyTorch's own: the compiled kernels are not in use"
    lines = [
        ("processor", f"{findings['processor']}, {findings['cores']} cores{', ' + caches if caches else ''}"),
        ("instruction set", using + (f" (also here: {', '.join(others)})" if others else "")),
        ("threads", "PyTorch is not installed" if findings["threads"] is None else f"{findings['threads']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in findings["versions"].items())),
    ]
    for limits in findings["limits"]:
        lines.append((f"limits, {limits['threads']} thread{'s' * (limits['threads'] > 1)}", _speeds(limits)))
    if findings["limits"]:
        lines.append(("", f"measured with {findings['limits'][0]['measured_with']}"))
    else:
        lines.append(("limits", "not measured: neither the compiled kernels nor PyTorch are installed"))
    lines.append(("OpenMP runtimes", "\n".join(findings["openmp_runtimes"]) or "none mapped"))
    lines += [("falls back" if n == 0 else "", text) for n, text in enumerate(findings["falls_back"])]
    return lines + [("advice", text) for text in findings["advice"]]


def _speeds(limits: dict[str, Any]) -> str:
    memory = ", ".join(
        f"{each['level']} {each['gigabytes_per_second']:.1f} ({each['size'] / 2**20:.3g} MiB)"
        for each in limits["bandwidths"]
    )
    return f"multiply and add: {limits['gflops']:.1f} GFLOP/s\nread and write, GB/s: {memory}"
