"""What is timed: a network or a layer at a batch size, its input, its answer, and other libraries' files.

Files that a library converts from the network are kept in `build/peers`, under a name that changes with the
network's weights and the versions of PyTorch and the library, so that a second run starts sooner.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn

FOLDER = Path(__file__).resolve().parents[1] / "build" / "peers"

Convert = Callable[["nn.Module", "np.ndarray", Path], None]


@dataclass(frozen=True)
class Case:
    """A network at a batch size; `folder` has its input, its answer and the converted files."""

    network: str
    batch: int
    multiplications: int
    parameters: int
    folder: Path

    @property
    def input(self) -> np.ndarray:
        """Images (batch, 3, height, width), float32."""
        loaded: np.ndarray = np.load(self.folder / "input.npy")
        return loaded

    @property
    def answer(self) -> np.ndarray:
        """What PyTorch computes for them in float64."""
        loaded: np.ndarray = np.load(self.folder / "answer.npy")
        return loaded

    def error(self, got: np.ndarray) -> float:
        """The largest difference from the answer, as a share of the answer's range; infinite for NaN."""
        right = self.answer
        if got.shape != right.shape or not np.isfinite(got).all():
            return float("inf")
        return float(np.abs(got - right).max() / (right.max() - right.min()))


def load(network: str, batch: int) -> tuple[nn.Module, torch.Tensor]:
    """The network called so, and an input for it; `layer:standard 32 64 112 1` is one layer.

    A layer is standard, direct (the same, for who may choose) or separable (depthwise → ReLU6 → pointwise),
    3×3 with padding 1, and has input channels, output channels, input size and stride.
    """
    import torch

    from ninefold import models

    kind, colon, rest = network.partition(":")
    if kind != "layer" or not colon:
        loaded = models.load(network)
        return loaded.model, loaded.example(batch)
    form, *numbers = rest.split()
    m, n, size, stride = map(int, numbers)
    generator = torch.Generator().manual_seed(0)
    layer: nn.Module = torch.nn.Conv2d(m, n, 3, stride, 1)
    if form == "separable":
        depthwise = torch.nn.Conv2d(m, m, 3, stride, 1, groups=m)
        layer = torch.nn.Sequential(depthwise, torch.nn.ReLU6(), torch.nn.Conv2d(m, n, 1))
    with torch.no_grad():
        for parameter in layer.parameters():
            scale = parameter[0].numel() ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / scale)
    return layer.eval(), torch.randn(batch, m, size, size, generator=generator)


def prepare(network: str, batch: int) -> Case:
    """Load a network once, and write its input and its answer down."""
    import torch

    from ninefold import census

    model, x = load(network, batch)
    key = hashlib.sha256(f"{network} {batch} {tuple(x.shape)} {version('torch')} {model}".encode())
    for tensor in model.state_dict().values():
        key.update(tensor.contiguous().numpy().tobytes())
    folder = FOLDER / f"{''.join(c if c.isalnum() else '-' for c in network)}-{batch}-{key.hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    counted = census.take(model, (x,))
    with whole(folder / "input.npy") as file:
        np.save(file, x.numpy())
    if not (folder / "answer.npy").exists():
        with torch.no_grad(), whole(folder / "answer.npy") as file:
            np.save(file, model.double()(x.double()).numpy())
    return Case(network, batch, counted.multiplications, counted.parameters, folder)


def converted(case: Case, name: str, of: str, convert: Convert) -> str:
    """Have `case.folder/name` made by `convert`, once, in a process of its own; says why it could not be.

    `of` is the package whose version the file depends on.
    """
    path = case.folder / name
    stamp = case.folder / f"{name}.made"
    wanted = f"{of} {version(of)}"
    if path.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return ""
    stamp.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_convert, args=(theirs, convert, case, path))
    process.start()
    theirs.close()
    try:
        reason: str = mine.recv()
    except EOFError:
        process.join()
        reason = f"its converter ended with status {process.exitcode}"
    process.join()
    reason = reason or ("" if path.exists() else "it wrote no file")
    if not reason:
        stamp.write_text(wanted, encoding="utf-8")
    return reason


def _convert(pipe: multiprocessing.connection.Connection, convert: Convert, case: Case, path: Path) -> None:
    try:
        silence(case.folder / f"{path.name}.log")
        convert(load(case.network, case.batch)[0], case.input, path)
        pipe.send("")
    except Exception as error:
        lines = str(error).strip().splitlines()
        pipe.send(f"{type(error).__name__}: {lines[0] if lines else ''}")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write that appears under its name once it is whole."""
    part = path.with_name(f"part-{os.getpid()}-{path.name}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def silence(log: Path) -> None:
    """Send all that this process prints from now on to a file, that of its libraries in C++ too."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
