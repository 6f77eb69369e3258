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
        *left_over(runs),
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


def left_over(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same networks on the training images that were left over; nothing where none were."""
    measured = [run for run in runs if run.get("left_over")]
    if not measured:
        return []
    stages = ("original", "distilled", "scratch")
    rows = [
        [f"{run['network']}, {run['seed']}", *(f"{run['left_over'][stage]:.2f}" for stage in stages)]
        for run in measured
    ]
    means = [mean(run["left_over"][stage] for run in measured) for stage in stages]
    rows.append(["**mean**", *(f"{each:.2f}" for each in means)])
    return [
        "Between two networks 0.4 points may be chance on 10,000 images, of which some 500 are right in one",
        "of them alone. So here are the same networks on the training images that are left over.",
        "",
        page.table(["network, seed", *(STAGES[stage] for stage in stages)], rows),
        "",
    ]


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
