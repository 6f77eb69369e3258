"""`ninefold report`: what a network costs, what it would cost the other way, where its time goes."""

from __future__ import annotations

from pathlib import Path

import click

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("model")
@click.option("--weights", type=_FILE, help="Its weights: .safetensors, or .pth and the like without code.")
@click.option("--image", help="A picture as its input, instead of random numbers; chelsea, coffee: built in.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads.  [default: PyTorch's number]")
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=6.0, show_default=True, help="Time to measure."
)
@click.option(
    "-o",
    "--output",
    type=_FILE,
    default="report.html",
    show_default=True,
    help="The page; or the tables alone, as .csv or .json.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(
    model: str,
    weights: Path | None,
    image: str | None,
    threads: int | None,
    seconds: float,
    output: Path,
    as_json: bool,
) -> None:
    """Say what MODEL costs, what it would cost the other way, and where its time goes, layer by layer.

    MODEL is efficientnet-lite0, timm:NAME, torchvision:NAME, FILE.onnx, FILE.pt2 or FILE.py:FUNCTION, a
    function that returns a module, or a module and a tuple of its inputs. Nothing is downloaded: without
    --weights, names stand for networks with random weights, whose times and counts are real.

    \b
    Example: ninefold report timm:mobilenetv2_100 --threads 1 -o mobilenet.html
             ninefold report timm:resnet50 --weights resnet50.safetensors --image photo.jpg
    """
    from .look import look

    look(
        model,
        weights=weights,
        image=image,
        threads=threads,
        seconds=seconds,
        output=output,
        as_json=as_json,
    )
