"""Ways to train a network, each in a process of its own: what a step takes in time and in memory."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

import cores
from ninefold import measure, models
from ninefold.ops import passes

NINEFOLD = "Ninefold"
RIGHT = "float64"
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# What follows a step in another process, a spinning thread pool, is over by then.
_PAUSE = 0.05


@dataclass(frozen=True)
class Task:
    """A network, its batch of square images, and the threads it trains with."""

    network: str
    batch: int
    size: int
    threads: int


@dataclass(frozen=True)
class First:
    """A first step's loss and gradient, all parameters in one vector; the bytes that a later step takes."""

    loss: float
    gradient: np.ndarray
    memory: int | None


Run = Callable[..., torch.Tensor]


def _nchw(model: torch.nn.Module, x: torch.Tensor) -> tuple[Run, torch.Tensor]:
    return model, x


def _channels_last(model: torch.nn.Module, x: torch.Tensor) -> tuple[Run, torch.Tensor]:
    last = torch.channels_last
    return model.to(memory_format=last), x.contiguous(memory_format=last)


def _compiled(model: torch.nn.Module, x: torch.Tensor) -> tuple[Run, torch.Tensor]:
    model, x = _channels_last(model, x)
    return torch.compile(model), x


def _ninefold(model: torch.nn.Module, x: torch.Tensor) -> tuple[Run, torch.Tensor]:
    import ninefold

    return ninefold.for_training(model), x.contiguous(memory_format=torch.channels_last)


def _ninefold_bfloat16(model: torch.nn.Module, x: torch.Tensor) -> tuple[Run, torch.Tensor]:
    import ninefold

    fast = ninefold.for_training(model, activations="bfloat16")
    return fast, x.contiguous(memory_format=torch.channels_last)


def _float64(model: torch.nn.Module, x: torch.Tensor) -> tuple[Run, torch.Tensor]:
    return model.double(), x.double()


# Each new way is a row. The first three are PyTorch's.
WAYS: dict[str, Callable[[torch.nn.Module, torch.Tensor], tuple[Run, torch.Tensor]]] = {
    "PyTorch, NCHW": _nchw,
    "PyTorch, channels-last": _channels_last,
    "torch.compile": _compiled,
    NINEFOLD: _ninefold,
    "Ninefold, bfloat16": _ninefold_bfloat16,
    RIGHT: _float64,
}
PLAIN = tuple(WAYS)[:3]


class Trainee:
    """One way, in its process."""

    def __init__(self, name: str, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, task), daemon=True)
        self._process.start()
        theirs.close()

    def first(self) -> First | str:
        """Its first step, or why there is none."""
        got: First | str = self._receive()
        return got

    def turn(self) -> float | str:
        """Seconds of one step, or why there are none."""
        time.sleep(_PAUSE)
        self._pipe.send("step")
        seconds: float | str = self._receive()
        return seconds

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return f"its process ended with status {self._process.exitcode}"


def _serve(pipe: Connection, name: str, task: Task) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(task.threads)
    try:
        step, parameters = prepare(name, task)
        loss = step()
        gradient = torch.cat([_gradient(parameter).flatten() for parameter in parameters]).numpy()
        memory = None if name == RIGHT else _memory(step, parameters)
        pipe.send(First(loss, gradient, memory))
    except Exception as error:
        lines = str(error).strip().splitlines()
        pipe.send(f"{type(error).__name__}: {lines[0] if lines else ''}")
        return
    measure.keep_memory()
    if name != RIGHT:
        step()
        cores.spread(step, task.threads)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        start = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - start)


def prepare(name: str, task: Task) -> tuple[Callable[[], float], list[torch.nn.Parameter]]:
    """One step of SGD with momentum, as a function that returns the loss; the parameters that it moves."""
    model = models.load(task.network).model.train()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(task.batch, 3, task.size, task.size, generator=generator)
    run, x = WAYS[name](model, x)
    classes = torch.randint(1000, (task.batch,), generator=generator)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)

    def step() -> float:
        optimiser.zero_grad()
        torch.manual_seed(0)
        loss = functional.cross_entropy(run(x), classes)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step, parameters


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad.double()


def _memory(step: Callable[[], float], parameters: list[torch.nn.Parameter]) -> int | None:
    """Bytes that a step takes at its peak, above the model, its optimiser and the library's code."""
    step()
    for parameter in parameters:
        parameter.grad = None
    gc.collect()
    # What one step leaves for the next belongs to a step, too.
    passes.release_images()
    ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5")
        before = _resident("VmRSS")
        step()
        return _resident("VmHWM") - before
    except OSError:
        return None


def _resident(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])
