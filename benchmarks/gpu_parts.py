"""The parts of the GPU benchmark, in processes of their own; each prints what it found, line by line."""

from __future__ import annotations

import argparse
import json
import time
import traceback
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

import gpu_cases
import gpu_layers
import gpu_timing
import gpu_training
from gpu import MARK
from ninefold.gpu import choices, launch, planner
from ninefold.ops import backend


def run(given: argparse.Namespace) -> None:
    """Run one part."""
    PARTS[given.part](given)


def _machine(given: argparse.Namespace) -> None:
    import triton

    if not torch.cuda.is_available() or not backend.on_gpu(torch.empty(0, device=gpu_layers.DEVICE)):
        raise SystemExit("PyTorch sees no NVIDIA GPU of compute capability 8.0 or newer")
    properties = torch.cuda.get_device_properties(0)
    tell(
        "machine",
        name=properties.name,
        memory=properties.total_memory,
        multiprocessors=properties.multi_processor_count,
        torch=torch.__version__,
        triton=triton.__version__,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        surroundings=choices.surroundings(torch.device("cuda", 0)),
    )
    tell("limits", **gpu_timing.limits())


def _warm(given: argparse.Namespace) -> None:
    """Compile a share of all kernels: every job is done on two images, only this share's kernels start."""
    mine, workers = map(int, given.way.split("/"))
    start, met = launch.run, set()
    compiled = 0

    def shared(kernel: Any, grid: Any, *args: Any, config: launch.Config, **constants: Any) -> None:
        nonlocal compiled
        key = _compiles(kernel, args, config, constants)
        if key in met or zlib.crc32(key.encode()) % workers != mine or time.time() > given.until:
            return
        met.add(key)
        try:
            start(kernel, grid, *args, config=config, **constants)
            compiled += 1
        except Exception as error:
            print(f"{key}: {type(error).__name__}: {str(error)[:200]}")

    def all_of_them(task: str, ways: Mapping[str, planner.Way], like: Any) -> Any:
        made = [way() for way in ways.values()]
        return made[0]

    def none(candidates: Any, count: int, **named: Any) -> dict[str, Any]:
        for candidate in candidates.values():
            candidate(0)
        return {}

    launch.run = shared
    planner.run = all_of_them
    planner.choose = lambda task, ways, like: next(iter(ways))
    gpu_timing.interleaved = none
    gpu_timing.sets = lambda size: 1
    gpu_training._WARM = 0
    gpu_layers.FURTHEST = gpu_layers.FURTHEST_GRADIENT = float("inf")
    work: list[Callable[[], Any]] = []
    for name in gpu_cases.NETWORKS if "training" in given.only else ():
        work.append(lambda name=name: _step(name))
    for case in gpu_cases.MOBILENET_V1 if "layers" in given.only else ():
        work.append(lambda case=case: gpu_layers.separable_forward(case, 2))
        work.append(lambda case=case: gpu_layers.separable_training(case, 2))
    for layer in gpu_cases.DEPTHWISE if "layers" in given.only else ():
        work.append(lambda layer=layer: list(gpu_layers.depthwise(layer, 2)))
    for number, job in enumerate(work):
        _guarded(f"job {number}", job)
    print(f"{compiled} kernels")


def _step(name: str) -> None:
    model = gpu_cases.network(name).to(gpu_training.DEVICE)
    images = torch.randn(2, 3, gpu_training.SIZE, gpu_training.SIZE, device=gpu_training.DEVICE)
    labels = torch.randint(gpu_training.CLASSES, (2,), device=gpu_training.DEVICE)
    gpu_training.first_step(gpu_training.prepared("ninefold", model), model, images, labels)


def _compiles(kernel: Any, args: Sequence[Any], config: launch.Config, constants: Mapping[str, Any]) -> str:
    """What a kernel is compiled for, about as Triton sees it: two calls that share it have the same words."""
    seen = []
    for name, arg in zip(kernel.arg_names, args, strict=False):
        if isinstance(arg, torch.Tensor):
            seen.append(str(arg.dtype))
        elif isinstance(arg, int) and name not in launch.EXTENTS:
            seen.append("1" if arg == 1 else "16" if arg % 16 == 0 else "any")
        else:
            seen.append(type(arg).__name__)
    return f"{kernel.fn.__name__} {' '.join(seen)} {config} {sorted(constants.items())}"


def _warm_compile(given: argparse.Namespace) -> None:
    """Fill torch.compile's caches."""
    began = time.perf_counter()
    with_far = time.time() + 1
    gpu_training.measure(given.network, "torch_compile", given.training_batch, seconds=0, until=with_far)
    print(f"compiled in {time.perf_counter() - began:.0f} s")


def _layers(given: argparse.Namespace) -> None:
    work: list[tuple[str, Callable[[], Any]]] = []
    for case in gpu_cases.MOBILENET_V1:
        work.append((str(case), lambda case=case: [gpu_layers.separable_forward(case, given.batch)]))
        work.append((str(case), lambda case=case: [gpu_layers.separable_training(case, given.batch)]))
    for layer in gpu_cases.DEPTHWISE:
        work.append((str(layer), lambda layer=layer: gpu_layers.depthwise(layer, given.batch)))
    _each(work, given.until)


def _compiled(given: argparse.Namespace) -> None:
    work = [
        (str(case), lambda case=case: [gpu_layers.compiled(case, given.batch)])
        for case in gpu_cases.MOBILENET_V1
    ]
    _each(work, given.until)


def _training(given: argparse.Namespace) -> None:
    seconds = max(1.0, min(3.0, given.until - time.time() - 10))
    known = tuple(map(float, given.known.split(","))) if given.known else None
    for batch in (given.training_batch // part for part in (1, 2, 4, 8)):
        try:
            made = gpu_training.measure(
                given.network, given.way, batch, seconds=seconds, until=given.until, known=known
            )
        except torch.OutOfMemoryError:
            print(f"a batch of {batch} does not fit")
            torch.cuda.empty_cache()
            continue
        tell("training", **made)
        return


def _each(work: list[tuple[str, Callable[[], Any]]], until: float) -> None:
    for name, job in work:
        if time.time() > until:
            print(f"no time was left from {name} on")
            return

        def tell_all(job: Callable[[], Any] = job) -> None:
            for result in job():
                tell("layers", **result)

        _guarded(name, tell_all)
        torch.cuda.empty_cache()


def _guarded(name: str, job: Callable[[], Any]) -> None:
    try:
        job()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = str(error).strip().splitlines()
        told = f"{type(error).__name__}: {text[0] if text else ''} ({where.filename}:{where.lineno})"
        print(f"{name} failed: {told}")


def tell(kind: str, **found: Any) -> None:
    """Give a result to the process that started this one."""
    print(MARK + json.dumps({"kind": kind, **found}), flush=True)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "machine": _machine,
    "warm": _warm,
    "warm-compile": _warm_compile,
    "layers": _layers,
    "training": _training,
    "compiled": _compiled,
}
