"""`ninefold report` on whole networks: it must work, and its total must be PyTorch's. Pages: build/reports.

Run as `python benchmarks/reports.py`, or `make reports`. The file kinds are made here, of MobileNetV2.
"""

from __future__ import annotations

import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from ninefold import models, survey

FOLDER = Path(__file__).resolve().parents[1] / "build" / "reports"
NETWORKS = ("timm:resnet50", "timm:vit_small_patch16_224", "timm:mobilenetv2_100", "timm:convnext_tiny")
SOURCE = "timm:mobilenetv2_100"


def files() -> list[str]:
    """MobileNetV2 as an exported program, and as an ONNX file where PyTorch's exporter is installed."""
    network = models.load(SOURCE)
    made = [FOLDER / "mobilenetv2.pt2"]
    torch.export.save(torch.export.export(network.model, network.examples), made[0])
    if find_spec("onnxscript") is not None:
        made.append(FOLDER / "mobilenetv2.onnx")
        torch.onnx.export(network.model, network.examples, str(made[-1]), verbose=False)
    else:
        print("no ONNX file: onnxscript is not installed (make peers)", file=sys.stderr)
    return [str(path) for path in made]


def check(name: str, *, threads: int, seconds: float) -> str:
    """Report on one network; ArithmeticError if PyTorch counts something else."""
    network = models.load(name)
    report = survey.report(
        network.model, network.examples, name=network.name, threads=threads, seconds=seconds
    )
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.model(*network.examples)
    # Its table lacks the attention of the CPU.
    attention = sum(row.multiplications for row in report.rows if row.kind == "attention")
    if 2 * (report.multiplications - attention) != counter.get_total_flops():
        raise ArithmeticError(f"{name}: {report.multiplications:,} multiplications are not PyTorch's")
    page = report.save(FOLDER / f"{Path(name.partition(':')[2] or name).name}.html")
    return f"{report}\n{page}\n"


@click.command()
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--seconds", default=6.0, show_default=True, help="For each network.")
def main(threads: int, seconds: float) -> None:
    """Report on every network."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    for name in (*NETWORKS, *files()):
        print(check(name, threads=threads, seconds=seconds))


if __name__ == "__main__":
    main()
