"""What the commands of this folder counted, as they wrote it: results.json, and the page that is made of it.

To record another command, call `keep` under its name.
"""

from __future__ import annotations

import fcntl
import json
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parent / "docs" / "reference" / "counts.md"

Row = dict[str, Any]

_HEAD = """\
# Counts

How much was run to find faults, and when. Every row is written by the command that it names, at the end of
its run (`ARGS=--write`), never by hand. What they stand for is promised in `SECURITY.md`.
"""


def keep(section: str, rows: dict[str, Row]) -> None:
    """Put the rows of a section in the place of those of the same names, and make the page again."""
    stamped = {name: {**row, "when": time.strftime("%Y-%m-%d"), "on": _here()} for name, row in rows.items()}
    with RESULTS.open("a") as lock:  # several runs may end at a time
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = load()
        found.setdefault(section, {}).update(stamped)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page(found), encoding="utf-8")


def load() -> dict[str, dict[str, Row]]:
    """All sections."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    return json.loads(text) if text else {}


def page(found: dict[str, dict[str, Row]]) -> str:
    """The page as Markdown."""
    parts = [_HEAD]
    if rows := found.get("verify"):
        parts.append(_verify(rows))
    if rows := found.get("commands"):
        lines = [
            f"| `{name}` | {_counted(row['counted'])} | {row['failed']:,} | {row['when']} |"
            for name, row in sorted(rows.items())
        ]
        heading = "## Faults, files, networks and the rest"
        parts.append(
            "\n".join([heading, "", "| command | counted | failed | when |", "|---|---|--:|---|", *lines, ""])
        )
    return "\n".join(parts)


def _verify(rows: dict[str, Row]) -> str:
    from drawn import DIRECTIONS, OPERATORS

    kinds = [f"{operator} {direction}" for operator in OPERATORS for direction in DIRECTIONS]
    ordered = [(kind, rows[kind]) for kind in kinds if kind in rows]
    lines = [
        f"| {kind.replace(' ', ' | ')} | {row['held']:,} | {row['exact']:,} | {row['mistrusted']:,} "
        f"| {row['runs']:,} | {row['failed']:,} | {row['seed']} | {row['when']} |"
        for kind, row in ordered
    ]
    total = {
        name: sum(row[name] for _, row in ordered)
        for name in ("held", "exact", "mistrusted", "runs", "failed")
    }
    sums = " | ".join(f"{number:,}" for number in total.values())
    return "\n".join(
        [
            "## Random cases against the definitions: `make verify`",
            "",
            "Each case runs on every instruction set of the machine, on 1, 2 and 5 threads, and on one of",
            "them twice; operands end at a guard page. A MISTRUSTED case says too little: another takes its",
            "place. The aim is 20,000 of each; a row with fewer says how far its run has come.",
            f"On: {'; '.join(sorted({row['on'] for _, row in ordered}))}.",
            "",
            "| operator | direction | held | bit for bit | MISTRUSTED | runs | failed | seed | when |",
            "|---|---|--:|--:|--:|--:|--:|--:|---|",
            *lines,
            f"| all | | {sums} | | |",
            "",
        ]
    )


def _counted(counted: dict[str, int | float]) -> str:
    return ", ".join(f"{number:,} {what}" for what, number in counted.items())


def _here() -> str:
    import torch

    from ninefold.ops import cpu

    return f"{', '.join(cpu.instruction_sets())}; PyTorch {torch.__version__.partition('+')[0]}"
