"""The libraries that run a whole network, each at its own best documented settings.

A library is a row of LIBRARIES: what it needs, how it is set, how it prepares a case with a number of
threads, and, where it reads a file of its own, how that is made. What one library imports no other's process
loads.
"""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cases import Case, Convert, load, whole

if TYPE_CHECKING:
    import torch

Run = Callable[[], Any]  # gives what the library gives: see `array`


@dataclass(frozen=True)
class Library:
    """How one library runs a case; `file` is what `convert` writes for it."""

    name: str
    package: str
    settings: str
    prepare: Callable[[Case, int], Run]
    needs: tuple[str, ...] = ()
    file: str = ""
    convert: Convert | None = None
    fewer: bool = False  # a standard convolution takes fewer multiplications than it has (Winograd's)

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages it needs that are not installed."""
        return tuple(name for name in (self.package, *self.needs) if importlib.util.find_spec(name) is None)


def settings(names: Sequence[str]) -> dict[str, str]:
    """How each of these is set."""
    return {name: LIBRARIES[name].settings for name in names}


def array(result: Any) -> np.ndarray:
    """What a library gave, copied. Who stays with the library has no need of it, so it is not timed."""
    return np.array(result.numpy() if hasattr(result, "numpy") else result)


def _torch(case: Case, threads: int, *, channels_last: bool) -> tuple[torch.nn.Module, torch.Tensor]:
    import torch

    torch.set_num_threads(threads)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = load(case.network, case.batch)[0].to(memory_format=layout)
    return model, torch.from_numpy(case.input).contiguous(memory_format=layout)


def _eager(case: Case, threads: int, *, channels_last: bool) -> Run:
    import torch

    model, x = _torch(case, threads, channels_last=channels_last)

    def run() -> Any:
        with torch.inference_mode():
            return model(x)

    return run


def _compiled(case: Case, threads: int) -> Run:
    import torch
    import torch._inductor.config as inductor

    inductor.freezing = True
    inductor.cpp_wrapper = True
    model, x = _torch(case, threads, channels_last=True)
    fast = torch.compile(model)

    def run() -> Any:
        with torch.no_grad():
            return fast(x)

    return run


def _ninefold(case: Case, threads: int) -> Run:
    from ninefold.inference import for_inference

    model, x = _torch(case, threads, channels_last=True)
    kind, _, form = case.network.partition(":")
    fast = _packed(model, form.split()[0]) if kind == "layer" else for_inference(model, (x,))
    return lambda: fast(x)


def _packed(layer: Any, form: str) -> torch.nn.Module:
    """A layer of `cases.load` as `for_inference` runs it; a direct one with all its multiplications."""
    from ninefold.ops import packed

    if not hasattr(layer, "weight"):
        first, last = layer[0], layer[2]
        weights = first.weight, last.weight, first.bias, last.bias
        return packed.Separable(
            *weights, stride=first.stride, padding=(1, 1, 1, 1), depthwise_activation="relu6"
        )
    options = {"stride": layer.stride, "padding": (1, 1, 1, 1), "winograd": form != "direct"}
    return packed.Conv2d(layer.weight, layer.bias, **options)


def _to_onnx(model: torch.nn.Module, x: np.ndarray, path: Path) -> None:
    import torch

    with whole(path) as file:
        torch.onnx.export(
            model, (torch.from_numpy(x),), file, dynamo=True, external_data=False, verbose=False
        )


def _onnxruntime(case: Case, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(
        case.folder / "network.onnx", options, providers=["CPUExecutionProvider"]
    )
    # Bound once: a call copies nothing. Nor does the binding keep the array.
    bound, image = session.io_binding(), case.input
    bound.bind_cpu_input(session.get_inputs()[0].name, image)
    bound.bind_output(session.get_outputs()[0].name, "cpu")

    def run(_kept: np.ndarray = image) -> Any:
        session.run_with_iobinding(bound)
        return bound.get_outputs()[0]

    return run


def _openvino(case: Case, threads: int) -> Run:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = (
        openvino.Core().compile_model(case.folder / "network.onnx", "CPU", settings).create_infer_request()
    )
    # Bound once: infer(feed) took up to 1.05 times as long, most on two threads and small networks. Nor does
    # the tensor keep the array.
    image = case.input
    request.set_input_tensor(openvino.Tensor(image, shared_memory=True))

    def run(_kept: np.ndarray = image) -> Any:
        request.infer()
        return request.get_output_tensor(0).data

    return run


def _to_ncnn(model: torch.nn.Module, x: np.ndarray, path: Path) -> None:
    import pnnx
    import torch

    traced = path.with_name("network.pt")
    image = torch.from_numpy(x[:1])
    with torch.no_grad():
        torch.jit.trace(model, image, check_trace=False).save(traced)
    shape = f"inputshape=[{','.join(map(str, image.shape))}]f32"
    done = subprocess.run(
        [pnnx.EXEC_PATH, traced.name, shape, "fp16=0"], cwd=path.parent, capture_output=True, text=True
    )
    made = path.with_name("network.ncnn.bin")
    if done.returncode != 0 or not made.exists():
        raise RuntimeError(f"pnnx ended with status {done.returncode}")
    path.with_name("network.ncnn.param").replace(path)


def _ncnn(case: Case, threads: int) -> Run:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    # As its own benchmark does: memory from pools of its own.
    pools = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()
    net.opt.blob_allocator, net.opt.workspace_allocator = pools
    if net.load_param(str(case.folder / "ncnn.param")) or net.load_model(
        str(case.folder / "network.ncnn.bin")
    ):
        raise RuntimeError("ncnn could not read what pnnx wrote")
    images = list(case.input)

    def run(kept: Any = pools) -> np.ndarray:
        rows = []
        for image in images:
            extractor = net.create_extractor()
            extractor.input("in0", ncnn.Mat(image))
            status, out = extractor.extract("out0")
            if status != 0:
                raise RuntimeError(f"ncnn returned {status}")
            rows.append(np.array(out))
        return np.stack(rows)

    return run


def _to_executorch(model: torch.nn.Module, x: np.ndarray, path: Path) -> None:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(model, (torch.from_numpy(x),))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    with whole(path) as file:
        file.write_bytes(lowered.buffer)


def _executorch(case: Case, threads: int) -> Run:
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    torch.set_num_threads(threads)
    portable_lib._unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(case.folder / "network.pte").load_method("forward")
    assert method is not None
    inputs = [torch.from_numpy(case.input)]
    return lambda: method.execute(inputs)[0]


NINEFOLD = "Ninefold"
PLAIN = ("PyTorch, NCHW", "PyTorch, channels-last")

LIBRARIES: dict[str, Library] = {
    library.name: library
    for library in (
        Library(PLAIN[0], "torch", "eager", lambda case, n: _eager(case, n, channels_last=False)),
        Library(PLAIN[1], "torch", "eager", lambda case, n: _eager(case, n, channels_last=True)),
        Library("torch.compile", "torch", "inductor, freezing, cpp_wrapper, channels-last", _compiled),
        Library(
            "ONNX Runtime",
            "onnxruntime",
            "CPU provider, ORT_ENABLE_ALL, intra_op_num_threads, fixed shapes, IO binding",
            _onnxruntime,
            ("onnxscript",),
            "network.onnx",
            _to_onnx,
        ),
        Library(
            "OpenVINO",
            "openvino",
            "PERFORMANCE_HINT LATENCY, INFERENCE_PRECISION_HINT f32, INFERENCE_NUM_THREADS, fixed shapes, "
            "tensors bound",
            _openvino,
            ("onnxscript",),
            "network.onnx",
            _to_onnx,
        ),
        Library(
            "ncnn",
            "ncnn",
            "pnnx, fp32, pool allocators, num_threads; it takes a batch image by image",
            _ncnn,
            ("pnnx",),
            "ncnn.param",
            _to_ncnn,
            fewer=True,
        ),
        Library(
            "ExecuTorch",
            "executorch",
            "XnnpackPartitioner, to_edge_transform_and_lower, thread pool reset to the number of threads",
            _executorch,
            ("torchao", "flatbuffers"),
            "network.pte",
            _to_executorch,
        ),
        Library(NINEFOLD, "ninefold", "for_inference, channels-last", _ninefold, fewer=True),
    )
}

# What "the fastest peer" is chosen from; PyTorch itself has a column of its own.
PEERS = tuple(name for name in LIBRARIES if name not in (*PLAIN, NINEFOLD))
