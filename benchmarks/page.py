"""What every benchmark prints under its figures: the machine, its limits, the versions, the command."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ninefold.reporting.data import Machine

RESULTS = Path(__file__).parent / "results"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns lined up so that it reads as well on a terminal."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if position == 0 else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([line(head), f"|{rule}|", *(line(row) for row in rows)])


def threads(count: int) -> str:
    """A number of threads in words."""
    return f"{count} thread{'s' if count != 1 else ''}"


def circumstances(machines: Sequence[Machine]) -> str:
    """The lines below the figures; one machine for each number of threads."""
    first = machines[0]
    lines = [f"- {first.processor}, {first.instruction_set or 'without the compiled kernels'}"]
    for machine in machines:
        memory = ", ".join(f"{each.level} {each.gigabytes_per_second:.0f}" for each in machine.bandwidths)
        peak = f"- limits, {threads(machine.threads)}: {machine.gflops:.1f} GFLOP/s"
        lines.append(f"{peak}; reading and writing {memory} GB/s")
    lines.append(f"- limits measured with {first.measured_with}")
    lines.append(
        "- every process keeps the memory it frees, so that nobody is timed while pages are fetched again"
    )
    lines.append("- " + ", ".join(f"{name} {version}" for name, version in first.versions))
    return "\n".join(lines)


def libraries(
    settings: Mapping[str, str], absent: Mapping[str, Sequence[str]], versions: Mapping[str, str]
) -> list[str]:
    """How each library was set, and which are not here."""
    lines = [f"- {name} {versions[name]}: {words}" for name, words in settings.items()]
    for name, packages in absent.items():
        lines.append(f"- {name} is not here: {', '.join(packages)} is not installed (`make peers`)")
    return lines


def command() -> str:
    """The command line that was run, as one would type it here, without `--write`."""
    program = Path(sys.argv[0])
    arguments = [argument for argument in sys.argv[1:] if argument != "--write"]
    return shlex.join(["python", f"{program.parent.name}/{program.name}", *arguments])


def publish(name: str, text: str, *, write: bool, show: bool = True) -> None:
    """Print the page if `show`, and keep it as results/NAME.md if `write`."""
    if show:
        print(text)
    if write:
        keep(f"{name}.md", text + "\n")


def keep(name: str, text: str) -> None:
    """Write one file of the results."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(text, encoding="utf-8")


def keep_data(name: str, machines: Sequence[Machine], **data: Any) -> None:
    """Keep results/NAME.json: the command, the machines with their limits, and what was measured."""
    keep(f"{name}.json", as_json(machines, **data) + "\n")


def as_json(machines: Sequence[Machine], **data: Any) -> str:
    """The command, the machines with their limits, and what was measured, for other programs."""
    everything = {"command": command(), "machines": [asdict(machine) for machine in machines], **data}
    return json.dumps(everything, indent=1)
