"""`ninefold doctor`: what runs here, how fast this machine could be, and what would fall back."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command()
@click.option("--threads", type=click.IntRange(min=1), help="Measure with so many; by default one and all.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def command(threads: int | None, as_json: bool) -> None:
    """Show the instruction set, threads, versions, this machine's limits, and what falls back to PyTorch.

    Peak arithmetic and memory bandwidth are measured, which takes a few seconds; they are the limits that
    every benchmark is read against.

    Example: ninefold doctor --threads 1
    """
    from .checkup import examine

    findings = examine(threads)
    if as_json:
        click.echo(json.dumps(findings, indent=2, ensure_ascii=False))
    else:
        _print(findings)


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
