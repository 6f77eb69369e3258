"""What `tune=True` measured, kept in a file: one per user, its entries named by machine, kernels and shape.

`$XDG_CACHE_HOME/ninefold/tune.json`, or that folder under `~/.cache`. A file that cannot be read, or is not
ours, is ignored with a warning and written anew.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from pathlib import Path

from ninefold import __version__, machine
from ninefold.inference import planner
from ninefold.inference.match import Block

_FORMAT = "ninefold tune 1"

# An entry: a form in words → the seconds it took.
Measured = dict[str, float]


def file() -> Path:
    """Where the entries are kept."""
    # An empty or relative variable is to be ignored, says the XDG base directory specification.
    told = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(told) if os.path.isabs(told) else Path.home() / ".cache"
    return base / "ninefold" / "tune.json"


def key(block: Block, images: int, threads: int) -> str:
    """What an entry depends on: machine, instruction set, threads, version, batch and each stage's shape."""
    parts = [machine.processor(), planner.instruction_set(), f"{threads} threads", f"ninefold {__version__}"]
    parts.append(f"batch {images}")
    for stage in block.stages:
        shape = stage.shape
        numbers = shape.kernel_size, shape.stride, shape.padding, shape.dilation, shape.input_size
        parts.append(
            f"{shape.in_channels}-{shape.out_channels}/{shape.groups} "
            f"{' '.join('x'.join(map(str, pair)) for pair in numbers)} {stage.activation}"
        )
    parts += ["residual"] * (block.residual is not None)
    return "; ".join(parts)


def load() -> dict[str, Measured]:
    """All entries; none, with a warning, from a file that is not whole or not ours."""
    path = file()
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        return _ignored(path, type(error).__name__)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return _ignored(path, "it is not JSON")
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        return _ignored(path, f"its format is not {_FORMAT!r}")
    entries = content.get("entries")
    if not isinstance(entries, dict) or not all(map(_is_measured, entries.values())):
        return _ignored(path, "its entries are not times by form")
    return entries


def save(entries: dict[str, Measured]) -> None:
    """Keep all entries; a folder that cannot be written to is a warning."""
    path = file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as part:
            json.dump({"format": _FORMAT, "entries": entries}, part, indent=1)
        Path(part.name).replace(path)
    except OSError as error:
        warnings.warn(f"for_inference: what was tuned is not kept: {error}", RuntimeWarning, stacklevel=2)


def _is_measured(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and bool(entry)
        and all(isinstance(seconds, float) and 0 < seconds < 1e6 for seconds in entry.values())
    )


def _ignored(path: Path, why: str) -> dict[str, Measured]:
    warnings.warn(f"for_inference: {path} is ignored: {why}", RuntimeWarning, stacklevel=3)
    return {}
