"""`ninefold bench`: the benchmarks of the source checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

BENCHMARKS = ("ops", "inference", "training", "promise", "cliffs", "preparation", "gpu")
_FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("which", type=click.Choice(BENCHMARKS))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(which: str, arguments: tuple[str, ...]) -> int:
    """Measure Ninefold against its peers, with this machine's limits beside the figures.

    ops: separable layers against PyTorch's pair of convolutions. inference: whole networks against PyTorch
    and, where they are installed (`make peers`), ONNX Runtime, OpenVINO, ncnn and ExecuTorch. training: a
    step in time and memory, against PyTorch in both formats and torch.compile. promise: the fastest standard
    convolution of any library over Ninefold's separable layer, over the arithmetic's ratio. cliffs: a grid of
    shapes, where no operator may be much slower than PyTorch's. preparation: what `for_inference` takes
    beyond torch.export, and its memory beside OpenVINO's. gpu: tests and times the kernels of an NVIDIA GPU
    in under eight minutes, layers and training steps. Other ARGUMENTS go to the benchmark.

    \b
    Example: ninefold bench ops --threads 1
             ninefold bench inference --network timm:mobilenetv2_100 --batch 1
    """
    program = _FOLDER / f"{which}.py"
    if not program.is_file():
        raise FileNotFoundError(
            "the benchmarks are in Ninefold's source checkout, not in the installed package"
        )
    return subprocess.run([sys.executable, str(program), *arguments], check=False).returncode
