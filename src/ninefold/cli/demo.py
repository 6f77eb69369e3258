"""`ninefold demo`: the main job, on a real photograph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_NETWORK = "efficientnet-lite0"


_SECONDS = click.FloatRange(min=0.1)
_PAGE = click.Path(dir_okay=False, path_type=Path)
_OPTIONS = (
    click.option(
        "--image", default="chelsea", show_default=True, help="A picture; chelsea, coffee: built in."
    ),
    click.option("--threads", type=click.IntRange(min=1), help="Threads.  [default: PyTorch's number]"),
    click.option("--seconds", type=_SECONDS, default=6.0, show_default=True, help="Time to measure."),
    click.option("-o", "--output", type=_PAGE, default="report.html", show_default=True, help="The page."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables."),
)


def options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that `demo` and `report` share, which are the keywords of `show`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command()
@options
def command(**chosen: Any) -> None:
    """Run EfficientNet-Lite0 on a photograph, in plain PyTorch and through Ninefold.

    Shows what each sees, what the network costs, how long each takes on this machine, and writes it all into
    one HTML page.

    \b
    Example: ninefold demo
             ninefold demo --image holiday.jpg --threads 1 -o holiday.html
    """
    from .show import show

    show(_NETWORK, **chosen)
