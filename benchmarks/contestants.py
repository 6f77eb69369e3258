"""The libraries that run a whole network, each in a process of its own.

In one process their thread pools would spin while another's turn is timed. A process is told when its turn
is: it runs once to warm up, then a few times under the clock.
"""

from __future__ import annotations

import copy
import importlib.util
import multiprocessing
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from ninefold import measure, models

# What follows a call in another process, a spinning thread pool, is over by then.
_PAUSE = 0.03


class Contestant:
    """A library in its process; `answer` is its logits, `version` its own."""

    def __init__(self, name: str, network: str, onnx: str | None, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, name, network, onnx, threads)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.answer, self.version = self._receive()

    def turn(self, calls: int) -> list[float]:
        """Seconds of each of `calls` calls."""
        time.sleep(_PAUSE)
        self._pipe.send(calls)
        seconds: list[float] = self._receive()
        return seconds

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"{self.name}: its process ended; what it said is above") from None


Run = Callable[[], np.ndarray]


def _pytorch_nchw(network: models.Network, x: torch.Tensor, onnx: str, threads: int) -> Run:
    return lambda: network.model(x).numpy()


def _pytorch_nhwc(network: models.Network, x: torch.Tensor, onnx: str, threads: int) -> Run:
    last = torch.channels_last
    model, x = copy.deepcopy(network.model).to(memory_format=last), x.contiguous(memory_format=last)
    return lambda: model(x).numpy()


def _ninefold(network: models.Network, x: torch.Tensor, onnx: str, threads: int) -> Run:
    from ninefold.inference import for_inference

    fast = for_inference(network.model, (x,))
    x = x.contiguous(memory_format=torch.channels_last)
    return lambda: fast(x).numpy()


def _onnxruntime(network: models.Network, x: torch.Tensor, onnx: str, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)[0]


def _openvino(network: models.Network, x: torch.Tensor, onnx: str, threads: int) -> Run:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    settings["PERFORMANCE_HINT"] = "LATENCY"
    request = openvino.Core().compile_model(onnx, "CPU", settings).create_infer_request()
    feed = {0: x.numpy()}
    return lambda: request.infer(feed)[0]


# Name -> the package that it needs, and how it is prepared. Each new library is a row.
LIBRARIES: dict[str, tuple[str, Callable[[models.Network, torch.Tensor, str, int], Run]]] = {
    "PyTorch, NCHW": ("torch", _pytorch_nchw),
    "PyTorch, channels-last": ("torch", _pytorch_nhwc),
    "ONNX Runtime": ("onnxruntime", _onnxruntime),
    "OpenVINO": ("openvino", _openvino),
    "Ninefold": ("ninefold", _ninefold),
}
PEERS_BY_FILE = ("ONNX Runtime", "OpenVINO")


def installed() -> list[str]:
    """The names of the libraries that are here; those that read ONNX need its exporter too."""
    exporter = importlib.util.find_spec("onnxscript") is not None
    return [
        name
        for name, (package, _) in LIBRARIES.items()
        if importlib.util.find_spec(package) and (exporter or name not in PEERS_BY_FILE)
    ]


def _serve(pipe: Connection, name: str, network: str, onnx: str, threads: int) -> None:
    measure.keep_memory()
    torch.set_num_threads(threads)
    package, prepare = LIBRARIES[name]
    loaded = models.load(network)
    with torch.inference_mode():
        run = prepare(loaded, loaded.example(), onnx, threads)
        pipe.send((np.array(run()), version(package) if package != "ninefold" else None))
        while True:
            try:
                calls = pipe.recv()
            except EOFError:
                return
            seconds = []
            run()
            for _ in range(calls):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
            pipe.send(seconds)
