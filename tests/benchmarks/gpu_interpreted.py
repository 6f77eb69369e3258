"""Runs the GPU benchmark's parts on the CPU, in Triton's interpreter, on shapes that it can bear."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import torch
from torch import nn

import gpu_cases
import gpu_layers
import gpu_timing
import gpu_training
from ninefold.ops import backend


def clocked(candidates: Mapping[str, Callable[[int], Any]], count: int) -> dict[str, gpu_timing.Timing]:
    found = {}
    for name, run in candidates.items():
        began = time.perf_counter()
        run(0)
        found[name] = gpu_timing.Timing(time.perf_counter() - began, "clock")
    return found


def network(name: str) -> nn.Module:
    layers = gpu_cases._unit(3, 8, 3, 2), gpu_cases.Residual(8, 8, 2, 3, 1), nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 9))


def main() -> None:
    torch.manual_seed(1)
    backend.on_gpu = lambda x: True  # type: ignore[assignment]
    gpu_timing.interleaved = clocked  # type: ignore[assignment]
    gpu_timing.sets = lambda size: 2
    gpu_layers.DEVICE = gpu_training.DEVICE = "cpu"
    gpu_training.SIZE, gpu_training.CLASSES, gpu_training._WARM = 12, 9, 1
    gpu_cases.network = network
    case = gpu_cases.Separable(16, 24, 6, 2)
    results = [gpu_layers.separable_forward(case, 2), gpu_layers.separable_training(case, 2)]
    results += gpu_layers.depthwise(gpu_cases.Depthwise(16, 6, 3, 1), 2)
    for way in ("ninefold", "eager_nhwc"):
        results.append(gpu_training.measure("small", way, 4, seconds=0, until=time.time() + 1))
    for result in results:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
