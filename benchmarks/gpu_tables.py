"""The GPU benchmark's results as lines and tables, and the files they are kept in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_COLUMNS = ("ninefold", "cudnn_nhwc", "cudnn_nchw", "torch_compile", "standard")
_HEADS = {
    "ninefold": "Ninefold",
    "ninefold_graphs": "Ninefold, graphs=True",
    "cudnn_nhwc": "cuDNN NHWC",
    "cudnn_nchw": "cuDNN NCHW",
    "torch_compile": "torch.compile, max-autotune",
    "standard": "standard 3×3",
    "eager_nhwc": "eager NHWC",
    "eager_nchw": "eager NCHW",
}


def machine(found: dict[str, Any]) -> str:
    """The GPU and its measured limits, in a line."""
    chip, limits = found["machine"], found.get("limits")
    told = f"{chip['name']}, torch {chip['torch']}, Triton {chip['triton']}, cuDNN {chip['cudnn']}"
    if limits:
        told += (
            f"; copies {limits['bytes_per_second'] / 1e12:.2f} TB/s, "
            f"multiplies bfloat16 at {limits['operations_per_second'] / 1e12:.0f} TFLOP/s"
        )
    return told


def line(kind: str, result: dict[str, Any], limits: dict[str, float]) -> str:
    """One result as it is printed on the way."""
    if kind == "training":
        name = f"{result['network']} by {result['way']}, batch {result['batch']}"
        if "seconds" not in result:
            return f"  {name}: WRONG, its loss's fall is off by {result['distance']:.0%}"
        told = f"{1e3 * result['seconds']:.1f} ms a step, {_gigabytes(result)} GB"
        return f"  {name}: {told}; first step {result['first_step']:.0f} s"
    times = "  ".join(f"{name} {1e6 * seconds:.1f}" for name, seconds in result["seconds"].items())
    wrong = f"  WRONG: {', '.join(result['wrong'])}" if result["wrong"] else ""
    share = _share(result, limits)
    reached = f"  {share:.0%} of the limit" if share is not None else ""
    return f"  {result['what']}, {result['layer']}: µs {times}{reached}{wrong}"


def text(found: dict[str, Any]) -> str:
    """Everything as a page of Markdown."""
    parts = ["# GPU", machine(found) + "."]
    parts.append(
        "bfloat16, channels-last. A layer's time is that of CUDA graphs over buffers larger than L2, in "
        "turns. The limit is the longer of its bytes at the copy's bandwidth and its operations at the "
        "matrix rate, both measured in the same run. What disagrees with float32 has no time. Made by "
        "`ninefold bench gpu`."
    )
    if "tests" in found:
        parts.append(f"`{found['tests']['command']}` on this GPU: {found['tests']['result']}.")
    limits = found.get("limits", {})
    for what in dict.fromkeys(result["what"] for result in found["layers"]):
        rows = [result for result in found["layers"] if result["what"] == what]
        parts.append(f"## {what.capitalize()}, µs\n\n{_layers(rows, limits)}")
    for name in dict.fromkeys(result["network"] for result in found["training"]):
        rows = [result for result in found["training"] if result["network"] == name]
        parts.append(f"## A training step of {name}\n\n{_training(rows)}")
    parts += [f"- {note}" for note in found.get("notes", [])]
    return "\n\n".join(parts) + "\n"


def write(found: dict[str, Any], folder: Path) -> str:
    """Write gpu.json and gpu.md, each whole or not at all; returns the page."""
    if "machine" not in found:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    page = text(found)
    for name, content in (("gpu.json", json.dumps(found, indent=1) + "\n"), ("gpu.md", page)):
        fresh = folder / f".{name}"
        fresh.write_text(content, encoding="utf-8")
        os.replace(fresh, folder / name)
    return page


def _share(result: dict[str, Any], limits: dict[str, float]) -> float | None:
    ours = result["seconds"].get("ninefold")
    if not limits or ours is None:
        return None
    bytes_, rate = limits["bytes_per_second"], limits["operations_per_second"]
    return max(result["bytes"] / bytes_, result["operations"] / rate) / ours


def _layers(rows: list[dict[str, Any]], limits: dict[str, float]) -> str:
    columns = [name for name in _COLUMNS if any(name in row["seconds"] for row in rows)]
    heads = ["layer", *(_HEADS[name] for name in columns), "faster than the best of cuDNN", "of the limit"]
    table = [heads, ["---"] * len(heads)]
    for row in rows:
        seconds = row["seconds"]
        cells = [f"{1e6 * seconds[name]:.1f}" if name in seconds else "–" for name in columns]
        for name in row["wrong"]:
            cells[columns.index(name)] = "wrong" if name in columns else ""
        peers = [seconds[name] for name in ("cudnn_nhwc", "cudnn_nchw") if name in seconds]
        ours, share = seconds.get("ninefold"), _share(row, limits)
        ratio = f"{min(peers) / ours:.2f}×" if peers and ours else "–"
        table.append([row["layer"], *cells, ratio, "–" if share is None else f"{share:.0%}"])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def _gigabytes(row: dict[str, Any]) -> str:
    return f"{row['peak_bytes'] / 1e9:.2f}" if row["peak_bytes"] else "–"


def _training(rows: list[dict[str, Any]]) -> str:
    heads = ["", "ms a step", "images a second", "peak memory, GB", "first step, s"]
    table = [heads, ["---"] * len(heads)]
    for row in rows:
        name = _HEADS.get(row["way"], row["way"]).replace(", max-autotune", "")
        if "seconds" not in row:
            table.append([name, "wrong", "–", "–", f"{row['first_step']:.0f}"])
            continue
        seconds = row["seconds"]
        cells = f"{1e3 * seconds:.1f}", f"{row['batch'] / seconds:.0f}", _gigabytes(row)
        table.append([name, *cells, f"{row['first_step']:.0f}"])
    page = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    times = {row["way"]: row for row in rows if "seconds" in row}
    peers = [times[way] for way in ("eager_nhwc", "torch_compile") if way in times]
    own = [times[way] for way in ("ninefold", "ninefold_graphs") if way in times]
    if own and peers:
        ours, best = (min(some, key=lambda row: row["seconds"]) for some in (own, peers))
        speed = best["seconds"] / ours["seconds"]
        page += f"\n\nNinefold is {speed:.2f} times as fast as the better of the others"
        if ours["peak_bytes"] and best["peak_bytes"]:
            page += f" and holds {ours['peak_bytes'] / best['peak_bytes']:.2f} times its memory"
        page += "."
    return page
