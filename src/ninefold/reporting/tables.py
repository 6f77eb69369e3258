"""A report as tables for other programs: CSV, one line a layer, and JSON, all of it."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import Any

from .facts import Report, Row, Swap, size

COLUMNS = (
    *("position", "name", "kind", "operator", "input_shape", "output_shape", "weight_shape", "kernel_size"),
    *("stride", "padding", "dilation", "groups", "multiplications", "parameters", "bytes", "intensity"),
    *("pytorch_seconds", "limit_seconds", "bound", "share_of_peak"),
    *("ninefold_layers", "ninefold_how", "ninefold_seconds"),
)


def as_csv(report: Report) -> str:
    """One line a layer, under COLUMNS; sizes as 1×64×56×56, times in seconds, intensity in operations a byte.

    `ninefold_seconds` is the time of the whole block, `ninefold_layers`, and stands at its first layer.
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in report.rows:
        values = plain_row(report, row)
        writer.writerow(
            {name: size(value) if isinstance(value, tuple) else value for name, value in values.items()}
        )
    return file.getvalue()


def as_json(report: Report) -> str:
    """Everything the page says, and the totals."""
    return json.dumps(plain(report), indent=2, ensure_ascii=False)


def plain(report: Report) -> dict[str, Any]:
    """The report as dictionaries and lists."""
    values = dataclasses.asdict(report)
    values["rows"] = [plain_row(report, row) for row in report.rows]
    for name in ("saved", "could_save"):
        values[name] = [_plain_swap(swap) for swap in getattr(report, name)]
    for block, values_of in zip(report.blocks, values["blocks"], strict=True):
        values_of |= {"intensity": block.intensity, "share_of_peak": report.share_of_peak(block)}
    if values["sight"]:
        del values["sight"]["photo_uri"]
    multiplications, weights = report.other_way
    values["totals"] = {
        "multiplications": report.multiplications,
        "weights": report.weights,
        "parameters": values.pop("parameters"),
        "bytes": report.bytes,
        "limit_seconds": report.limit_seconds,
        "other_way": {
            "is": "standard" if report.is_separable else "separable",
            "multiplications": multiplications,
            "weights": weights,
        },
    }
    return values


def plain_row(report: Report, row: Row) -> dict[str, Any]:
    """One layer under COLUMNS."""
    block = None if row.block is None else report.blocks[row.block]
    first = block is not None and report.leads(row)
    own = {name: getattr(row, name) for name in COLUMNS if hasattr(row, name)}
    return own | {
        "pytorch_seconds": row.seconds,
        "limit_seconds": row.limit.seconds,
        "bound": row.limit.bound,
        "share_of_peak": report.share_of_peak(row),
        "ninefold_layers": None if block is None else " + ".join(block.names),
        "ninefold_how": None if block is None else block.how,
        "ninefold_seconds": block.seconds if block is not None and first else None,
    }


def _plain_swap(swap: Swap) -> dict[str, Any]:
    return dataclasses.asdict(swap) | {
        "ratio": float(swap.ratio),
        "predicted_factor": swap.predicted_factor,
        "measured_factor": swap.measured_factor,
        "pytorch_factor": swap.pytorch_factor,
    }
