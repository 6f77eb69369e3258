"""The page of the conversion benchmark: accuracies of each seed and their means, and times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import page
from ninefold import measure, surroundings

STAGES = {
    "original": "original",
    "singular_values": "singular values alone",
    "calibrated": "calibrated",
    "distilled": "distilled",
    "scratch": "from scratch",
}


def report(runs: Sequence[Mapping[str, Any]], facts: Mapping[str, str], times: str) -> str:
    """The page; `facts` say what each column is, `times` is the table of `conversion_times`."""
    head = ["network, seed", "multiplications", *STAGES.values(), "distilled − original", "− scratch"]
    rows = []
    for network in dict.fromkeys(run["network"] for run in runs):
        some = [run for run in runs if run["network"] == network]
        rows += [row(f"{network}, {run['seed']}", [run]) for run in some]
        rows.append(row(f"**{network}, mean of {len(some)}**", some))
    machine = surroundings.describe(measure.limits(1), "onnxruntime", "openvino")
    lines = [
        "# Conversion",
        "",
        "Accuracy in percent, and the share of the convolutions' multiplications that is left.",
        "",
        page.table(head, rows),
        "",
        *(f"- {name}: {text}" for name, text in facts.items()),
        "",
        "Milliseconds for one image, one thread, taking turns in one process; weights are random. The small",
        "networks are in the budget above, the large ones have one term in every layer but the first.",
        "",
        times,
        "",
        page.circumstances([machine]),
        f"- `{page.command()}`",
    ]
    return "\n".join(lines)


def row(name: str, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Means over `runs`."""
    values = {stage: mean(run[stage] for run in runs) for stage in STAGES}
    return [
        name,
        f"{mean(run['ratio'] for run in runs):.3f}",
        *(f"{values[stage]:.2f}" for stage in STAGES),
        f"{values['distilled'] - values['original']:+.2f}",
        f"{values['distilled'] - values['scratch']:+.2f}",
    ]
