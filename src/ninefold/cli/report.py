"""`ninefold report`: what the demo shows, for any network."""

from __future__ import annotations

from typing import Any

import click

from .demo import options


@click.command()
@click.argument("model")
@options
def command(model: str, **chosen: Any) -> None:
    """Count, run and time MODEL in plain PyTorch and through Ninefold, as one HTML page.

    MODEL is efficientnet-lite0, timm:NAME, torchvision:NAME, FILE.pt2 or FILE.py:FUNCTION. Only the first
    comes with trained weights; the others' guesses mean nothing, their times and counts are real.

    \b
    Example: ninefold report timm:mobilenetv2_100 --threads 1 -o mobilenet.html
    """
    from .show import show

    show(model, **chosen)
