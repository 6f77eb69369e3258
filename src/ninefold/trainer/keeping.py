"""What a run leaves on the disk: a checkpoint that is always whole, and a line of JSON for each epoch."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from ninefold import limits

CHECKPOINT, METRICS, WEIGHTS = "checkpoint.pt", "metrics.jsonl", "model.pt"
_KINDS: dict[str, type | tuple[type, ...]] = {
    **{"model": dict, "optimiser": dict, "step": int, "loss": (int, float), "images": int},
    **{"last": dict, "settings": dict},
}


def save(path: Path, what: Any) -> None:
    """Write a file in one piece: who is interrupted leaves the one that was there."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            torch.save(what, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()


def check(output: Path, resume: bool) -> None:
    """Raise FileExistsError for a folder that holds a run, FileNotFoundError for one to resume without."""
    there = (output / CHECKPOINT).exists()
    if there and not resume:
        raise FileExistsError(f"`output` must not hold a run unless it is resumed, got {str(output)!r}")
    if resume and not there:
        raise FileNotFoundError(f"`output` must hold a checkpoint to resume, got {str(output)!r}")


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint; ValueError for what is none."""
    try:
        loaded = limits.load_tensors(path)
    except FileNotFoundError:
        raise
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"`output` must hold a checkpoint that can be read, got {str(path)!r}: {first}"
        ) from None
    whole = isinstance(loaded, dict) and all(isinstance(loaded.get(n), kind) for n, kind in _KINDS.items())
    if not whole or min(loaded["step"], loaded["images"]) < 0:
        raise ValueError(f"`output` must hold a checkpoint of ninefold train, got {str(path)!r}")
    return loaded


class Metrics:
    """Lines of JSON, each with the step it belongs to; a resumed run drops those behind its step."""

    def __init__(self, path: Path, *, step: int) -> None:
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                # One that was cut off, or is none of ours.
                with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        os.replace(beside, path)
        self._path = path

    def tell(self, **values: Any) -> None:
        """Add a line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
