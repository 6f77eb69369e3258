"""What converting saves in time: the converted network in Ninefold, the original in the fastest peer."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import torchvision
from torch import Tensor, nn

import page
from ninefold import convert, for_inference, measure
from small_networks import NETWORKS

PEERS = ("PyTorch", "PyTorch, channels-last", "ONNX Runtime", "OpenVINO")
CLOCKS = (*PEERS, "Ninefold", "converted, PyTorch", "converted, Ninefold")
LARGE = ("resnet18", "vgg16")


def table(folder: Path, budget: float) -> str:
    """A row for each network; what has been timed is kept in `folder`, as one file each."""
    rows = []
    for name in (*NETWORKS, *LARGE):
        kept = folder / f"times-{name}.json"
        if not kept.is_file():
            print(f"timing {name}", file=sys.stderr, flush=True)
            kept.write_text(json.dumps(_timed(name, folder, budget)))
        rows.append(_row(name, json.loads(kept.read_text())))
    return page.table(["network", "multiplications", *CLOCKS, "over the fastest peer"], rows)


def _timed(name: str, folder: Path, budget: float) -> dict[str, Any]:
    """One thread, in turns. Weights do not change a time."""
    measure.keep_memory()
    torch.manual_seed(0)
    if name in NETWORKS:
        original, x = NETWORKS[name]().eval(), torch.randn(1, 1, 28, 28)
        result = convert(original, x, budget=budget)
    else:
        original = torchvision.models.get_model(name, weights=None).eval()
        x = torch.randn(1, 3, 224, 224)
        result = convert(original, x)
    standard, separable = for_inference(original, x), for_inference(result.model.eval(), x)
    last = copy.deepcopy(original).to(memory_format=torch.channels_last)
    image = x.contiguous(memory_format=torch.channels_last)
    candidates: dict[str, Callable[[], object]] = {
        "PyTorch": lambda: original(x),
        "PyTorch, channels-last": lambda: last(image),
        **_peers(original, x, folder / f"{name}.onnx"),
        "Ninefold": lambda: standard(x),
        "converted, PyTorch": lambda: result.model(x),
        "converted, Ninefold": lambda: separable(x),
    }
    with torch.no_grad():
        compared = measure.interleaved(candidates, threads=1, seconds=8.0)
    peer = compared.fastest(*(each for each in PEERS if each in candidates))
    return {
        "ratio": float(result.ratio),
        "milliseconds": {each: 1e3 * compared[each].median for each in CLOCKS if each in candidates},
        "peer": peer,
        "over": compared.ratio(peer, "converted, Ninefold"),
    }


def _peers(model: nn.Module, x: Tensor, file: Path) -> dict[str, Callable[[], object]]:
    """The original in ONNX Runtime, and in OpenVINO where it is installed, on one thread each."""
    torch.onnx.export(model, (x,), str(file), dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options)
    image, entry = x.numpy(), session.get_inputs()[0].name
    peers: dict[str, Callable[[], object]] = {"ONNX Runtime": lambda: session.run(None, {entry: image})}
    if find_spec("openvino") is not None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = openvino.Core().compile_model(file, "CPU", settings).create_infer_request()
        peers["OpenVINO"] = lambda: request.infer({0: image})
    return peers


def _row(name: str, found: dict[str, Any]) -> list[str]:
    times = found["milliseconds"]
    return [
        name if name in NETWORKS else f"{name}, 224²",
        f"{found['ratio']:.3f}",
        *(f"{times[each]:.3f}" if each in times else "–" for each in CLOCKS),
        f"{found['over']:.2f}× ({found['peer']})",
    ]
