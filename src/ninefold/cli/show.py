"""A network examined and shown: tables or JSON on the terminal, and one HTML page."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path

import click
from rich.console import Console

from ninefold import photos
from ninefold.reporting import page, terminal
from ninefold.reporting.data import Examination

from . import progress


def show(
    network: str, *, image: str, threads: int | None, seconds: float, output: Path, as_json: bool
) -> None:
    """Examine `network` on `image`, print what was found, and write the page to `output`.

    Raises what `models.load`, `photos.read` and `for_inference` raise, ValueError for an output in no folder.
    """
    if not output.parent.is_dir():
        raise ValueError(f"`output` must be in a folder that is there, got {str(output)!r}")
    with progress.steps() as steps:
        # Before PyTorch is loaded: a wrong name should not cost seconds.
        picture = photos.read(image)
        steps.passing("loading PyTorch and the network")
        try:
            import torch  # noqa: F401
        except ModuleNotFoundError:
            raise ImportError("running a network needs PyTorch: pip install 'ninefold[torch]'") from None
        from ninefold import models

        from .examine import examine

        found = examine(
            models.load(network),
            picture,
            photo=Path(image).name,
            threads=threads,
            seconds=seconds,
            steps=steps,
            command=shlex.join(["ninefold", *sys.argv[1:]]),
        )
    output.write_text(page.render(found), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(_plain(found, output), indent=2, ensure_ascii=False))
    else:
        _print(found, output)


def _print(found: Examination, output: Path) -> None:
    console = Console(highlight=False, markup=False)
    console.print(terminal.examination(found))
    console.print(f"\nreport: {output.resolve()}", soft_wrap=True)


def _plain(found: Examination, output: Path) -> dict[str, object]:
    values = dataclasses.asdict(found)
    del values["photo_uri"]
    return {**values, "limit_seconds": found.limit_seconds, "report": str(output.resolve())}
