"""What the planner chose, kept in a file: one per user, its entries named by GPU, versions and task.

`$XDG_CACHE_HOME/ninefold/gpu.json`, or that folder under `~/.cache`. A file that cannot be read, or is not
ours, is ignored and written anew; one that cannot be written is done without.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
import triton

from ninefold import __version__

_FORMAT = "ninefold gpu 1"
_read: dict[str, dict[str, str]] | None = None


def file() -> Path:
    """Where the choices are kept."""
    # An empty or relative variable is to be ignored, says the XDG base directory specification.
    told = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(told) if os.path.isabs(told) else Path.home() / ".cache"
    return base / "ninefold" / "gpu.json"


def of(device: torch.device) -> dict[str, str]:
    """The choices made on such a device with these versions: task → way."""
    global _read
    if _read is None:
        _read = _load()
    return _read.setdefault(surroundings(device), {})


def keep(device: torch.device, task: str, way: str) -> None:
    """Keep a choice, beside what other processes have written meanwhile."""
    global _read
    of(device)[task] = way
    mine, path = _read or {}, file()
    merged = _load()
    for where, entries in mine.items():
        merged.setdefault(where, {}).update(entries)
    _read = merged
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as out:
            json.dump({"format": _FORMAT, "choices": merged}, out, indent=1, sort_keys=True)
        os.replace(out.name, path)


def forget() -> None:
    """Read the file again when it is next asked."""
    global _read
    _read = None


@cache
def surroundings(device: torch.device) -> str:
    """What a choice depends on besides its task: the GPU, its driver, and who computes."""
    versions = f"triton {triton.__version__}; torch {torch.__version__}; ninefold {__version__}"
    if device.type != "cuda":
        return f"{device.type}; {versions}"
    driver = getattr(torch._C, "_cuda_getDriverVersion", lambda: "unknown")()
    return f"{torch.cuda.get_device_name(device)}; driver {driver}; {versions}"


def _load() -> dict[str, dict[str, str]]:
    try:
        content = json.loads(file().read_text(encoding="utf-8"))
        assert content["format"] == _FORMAT
        return {str(where): dict(entries) for where, entries in content["choices"].items()}
    except (OSError, ValueError, AssertionError, KeyError, TypeError, AttributeError):
        return {}
