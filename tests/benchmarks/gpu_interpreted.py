"""Runs the GPU benchmark's parts on the CPU: Triton's interpreter, CUDA's clock imitated, bearable shapes."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import torch
from torch import nn

import gpu_cases
import gpu_layers
import gpu_parts
import gpu_timing
import gpu_training
from ninefold.gpu import choices, planner
from ninefold.ops import backend


class Event:
    """CUDA's event, on the host's clock."""

    def __init__(self, enable_timing: bool) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: Event) -> float:
        return 1e3 * (other.at - self.at)


def imitate() -> None:
    """Give `torch.cuda` what the benchmark asks of it."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    chip = SimpleNamespace(name="no GPU", total_memory=1, multi_processor_count=1, L2_cache_size=1024)
    named: dict[str, Any] = {
        "Event": Event,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda one: nullcontext(),
        "synchronize": lambda: None,
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
        "graph": lambda one: nullcontext(),
        "get_device_properties": lambda number: chip,
        "reset_peak_memory_stats": lambda: None,
        "max_memory_allocated": lambda: 123,
        "empty_cache": lambda: None,
    }
    for name, value in named.items():
        setattr(torch.cuda, name, value)
    choices.surroundings = lambda device: "imitated"  # type: ignore[assignment]
    backend.on_gpu = lambda x: True  # type: ignore[assignment]
    for module in (gpu_timing, gpu_layers, gpu_training):
        module.DEVICE = "cpu"
    gpu_timing.COPIED, gpu_timing.MATRIX = 64, 16


def network(name: str) -> nn.Module:
    layers = gpu_cases._unit(3, 8, 3, 2), gpu_cases.Residual(8, 8, 2, 3, 1), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 9))


def main() -> None:
    imitate()
    gpu_training.SIZE, gpu_training.CLASSES = 8, 9
    gpu_training._WARM, gpu_training.FEWEST = 1, 2
    gpu_cases.network, gpu_cases.NETWORKS = network, ("small",)
    gpu_cases.MOBILENET_V1 = (gpu_cases.Separable(16, 24, 6, 2),)
    gpu_cases.DEPTHWISE = (gpu_cases.Depthwise(16, 6, 3, 1),)
    torch.manual_seed(1)
    given = argparse.Namespace(batch=2, training_batch=4, network="small", known="", until=time.time() + 600)
    available, torch.cuda.is_available = torch.cuda.is_available, lambda: True
    gpu_parts.run(argparse.Namespace(part="machine", **vars(given)))
    torch.cuda.is_available = available  # Dynamo asks too
    gpu_parts.run(argparse.Namespace(part="layers", **vars(given)))
    given.until = time.time()  # no more steps than must be
    for way in ("ninefold", "eager_nhwc"):
        gpu_parts.run(argparse.Namespace(part="training", way=way, **vars(given)))
    given.until = time.time() + 600
    torch._dynamo.config.disable = True
    gpu_parts.run(argparse.Namespace(part="compiled", **vars(given)))
    torch._dynamo.config.disable = False
    chosen = planner.choose
    gpu_parts.run(argparse.Namespace(part="warm", way="0/9", only=("layers", "training"), **vars(given)))
    assert planner.choose is not chosen


if __name__ == "__main__":
    main()
