"""`ninefold train`: a network learns a folder of images."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("model")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="The folder of images.")
@click.option(
    "-o",
    "--output",
    default="run",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The folder for checkpoint, metrics and model.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How often it sees each image.",
)
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Of each process.")
@click.option(
    "--rate", "learning_rate", type=float, default=0.05, show_default=True, help="Highest learning rate."
)
@click.option(
    "--optimiser",
    type=click.Choice(["sgd", "adam"]),
    default="sgd",
    show_default=True,
    help="What moves the weights.",
)
@click.option("--momentum", type=float, default=0.9, show_default=True, help="Of either.")
@click.option("--decay", "weight_decay", type=float, default=1e-4, show_default=True, help="Of the weights.")
@click.option("--warm-up", type=click.IntRange(min=0), default=1, show_default=True, help="Epochs.")
@click.option(
    "--label-smoothing",
    type=float,
    default=0.0,
    show_default=True,
    help="Share of a label that goes to all classes.",
)
@click.option("--size", type=click.IntRange(min=1), help="Of the images, instead of the network's own.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For weights and orders."
)
@click.option("--weights", type=click.Path(path_type=Path), help="A file of weights to begin with.")
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help="That read images.")
@click.option("--threads", type=click.IntRange(min=1), help="That compute.")
@click.option("--activations", type=click.Choice(["float32", "bfloat16"]), help="Kept for the backward pass.")
@click.option("--plain", is_flag=True, help="In PyTorch, without Ninefold's kernels.")
@click.option("--synchronised", is_flag=True, help="Batch-norm over all processes (in PyTorch).")
@click.option(
    "--unreadable",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What an image that cannot be read does.",
)
@click.option("--save-every", type=click.IntRange(min=1), default=500, show_default=True, help="Steps.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in the output.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one line an epoch.")
def command(
    model: str,
    data: Path,
    output: Path,
    size: int | None,
    weights: Path | None,
    workers: int,
    threads: int | None,
    plain: bool,
    resume: bool,
    as_json: bool,
    **settings: object,
) -> None:
    """Train MODEL on a folder of images, and keep a checkpoint that an interruption cannot break.

    MODEL is timm:NAME, torchvision:NAME or FILE.py:FUNCTION. The folder has one subfolder for each class, or
    train and val with such subfolders, or MNIST's idx files, plain or .gz. The output gets checkpoint.pt,
    metrics.jsonl (one line for each epoch) and at the end model.pt. A resumed run gives the numbers that the
    uninterrupted one would have given. Under torchrun several processes share the work.

    \b
    Example: ninefold train timm:mobilenetv2_035 --data /usr/share/datasets/fashion-mnist --epochs 3
             torchrun --nproc-per-node 2 -m ninefold train timm:mobilenetv2_100 --data photos
    """
    from . import lesson

    lesson.give(
        model,
        data,
        output,
        size=size,
        weights=weights,
        workers=workers,
        threads=threads,
        resume=resume,
        as_json=as_json,
        settings={"fused": not plain, **settings},
    )
