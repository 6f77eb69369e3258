"""Layers on a GPU in bfloat16: Ninefold against PyTorch's pair in both formats and the standard layer.

Every result is held to float32 before its time counts; what is wrong has no time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import gpu_timing
from gpu_cases import Depthwise, Separable
from ninefold import ops
from ninefold.ops import backend, fallback
from ninefold.ops.operands import Gradient, Operand
from ninefold.training import chain
from ninefold.training.stages import Normalisation, Stage

DEVICE = "cuda"
DTYPE = torch.bfloat16
FURTHEST = 2e-2  # of a result from float32, by norm: bfloat16 rounds by 4e-3, twice here
FURTHEST_GRADIENT = 6e-2

_POINT = ((1, 1), (0, 0, 0, 0), (1, 1), 1)
_BATCH_NORM = Normalisation(1e-5, True)


def images(number: int, *shape: int) -> list[Tensor]:
    """Random images, channels-last."""
    made = (torch.randn(shape, device=DEVICE, dtype=DTYPE) for _ in range(number))
    return [image.contiguous(memory_format=torch.channels_last) for image in made]


def separable_forward(case: Separable, batch: int) -> dict[str, Any]:
    """Depthwise, ReLU, pointwise, ReLU: one call against two of cuDNN's, and the 3×3 it stands for."""
    size = -(-case.size // case.stride)
    moved = 2 * batch * (case.inputs * case.size**2 + case.outputs * size**2)
    count = gpu_timing.sets(moved)
    xs = images(count, batch, case.inputs, case.size, case.size)
    flat = [x.contiguous() for x in xs]
    first, second, standard = _weights(case)
    b1, b2 = _vector(case.inputs), _vector(case.outputs)
    geometry = {"stride": case.stride, "padding": 1}

    def pair(x: Tensor) -> Tensor:
        filtered = F.relu(F.conv2d(x, first, b1, **geometry, groups=case.inputs))
        return F.relu(F.conv2d(filtered, second, b2))

    def ours(x: Tensor) -> Tensor:
        acts = {"depthwise_activation": "relu", "activation": "relu"}
        return ops.separable_conv2d(x, first, second, b1, b2, **geometry, **acts)

    wide = [tensor.float() for tensor in (xs[0][:4], first, second, b1, b2)]
    sides = (1, 1, 1, 1)
    strides = (case.stride, case.stride)
    right = fallback.separable_conv2d(*wide, strides, sides, (1, 1), "relu", "relu", None)
    runs: dict[str, Callable[[int], Any]] = {
        "ninefold": lambda n: ours(xs[n]),
        "cudnn_nhwc": lambda n: pair(xs[n]),
        "cudnn_nchw": lambda n: pair(flat[n]),
    }
    checks = {name: _distance(lambda run=run: run(0)[:4], right) for name, run in runs.items()}
    runs["standard"] = lambda n: F.relu(F.conv2d(xs[n], standard, b2, **geometry))
    operations = 2 * batch * size**2 * case.inputs * (9 + case.outputs)
    return _timed("forward", case, runs, checks, FURTHEST, count, moved, operations)


def separable_training(case: Separable, batch: int) -> dict[str, Any]:
    """The same with batch-norm behind each stage, forward and backward: gradients of all tensors."""
    size = -(-case.size // case.stride)
    one = 2 * batch
    moved = one * 3 * (case.inputs * case.size**2 + case.outputs * size**2)
    count = gpu_timing.sets(moved // 3)
    xs = [x.requires_grad_() for x in images(count, batch, case.inputs, case.size, case.size)]
    flat = [x.detach().contiguous().requires_grad_() for x in xs]
    along = images(1, batch, case.outputs, size, size)[0]
    first, second, standard = _weights(case)
    norms = [_vector(channels) for channels in (case.inputs, case.inputs, case.outputs, case.outputs)]
    leaves = [tensor.requires_grad_() for tensor in (first, second, *norms)]
    standard.requires_grad_()
    strides = (case.stride, case.stride)
    stages = (
        Stage("depthwise", strides, (1, 1, 1, 1), (1, 1), case.inputs, _BATCH_NORM, "relu"),
        Stage("pointwise", *_POINT, _BATCH_NORM, "relu"),
    )

    def pair(x: Tensor, own: list[Tensor]) -> Tensor:
        z = F.conv2d(x, own[0], None, strides, 1, 1, case.inputs)
        z = F.relu(F.batch_norm(z, None, None, own[2], own[3], True))
        return F.relu(F.batch_norm(F.conv2d(z, own[1]), None, None, own[4], own[5], True))

    def ours(x: Tensor, own: list[Tensor]) -> Tensor:
        rows = [(own[0], None, own[2], own[3], None, None), (own[1], None, own[4], own[5], None, None)]
        return chain.run(x, stages, rows)[0]

    def replaced(x: Tensor) -> Any:
        out = F.relu(
            F.batch_norm(F.conv2d(x, standard, None, strides, 1), None, None, norms[2], norms[3], True)
        )
        return torch.autograd.grad(out, (x, standard, norms[2], norms[3]), along)

    def step(function: Callable[..., Tensor], x: Tensor, own: list[Tensor], arriving: Tensor) -> Any:
        return torch.autograd.grad(function(x, own), (x, *own), arriving)

    few = min(batch, 16)
    x = xs[0].detach()[:few].contiguous(memory_format=torch.channels_last).requires_grad_()
    wide = [tensor.detach().float().requires_grad_() for tensor in leaves]
    right = step(pair, x.detach().float().requires_grad_(), wide, along[:few].float())
    checks = {
        name: max(
            _distance(lambda got=got: got, want)
            for got, want in zip(step(function, x, leaves, along[:few]), right, strict=True)
        )
        for name, function in (("ninefold", ours), ("cudnn_nhwc", pair))
    }
    runs: dict[str, Callable[[int], Any]] = {
        "ninefold": lambda n: step(ours, xs[n], leaves, along),
        "cudnn_nhwc": lambda n: step(pair, xs[n], leaves, along),
        "cudnn_nchw": lambda n: step(pair, flat[n], leaves, along),
        "standard": lambda n: replaced(xs[n]),
    }
    # What rounding moves across a ReLU's zero makes bfloat16's gradients differ by much more than rounding,
    # and by chance: in six layers of a trial ours were 0.5 to 1.4 times as far from float32 as PyTorch's.
    furthest = max(FURTHEST_GRADIENT, 3 * checks["cudnn_nhwc"])
    checks = {"ninefold": checks["ninefold"]}
    operations = 3 * 2 * batch * size**2 * case.inputs * (9 + case.outputs)
    return _timed("forward and backward", case, runs, checks, furthest, count, moved, operations)


def depthwise(case: Depthwise, batch: int) -> Iterator[dict[str, Any]]:
    """A depthwise layer: forward, its input's gradient alone, its weights' gradient alone."""
    size = -(-case.size // case.stride)
    x_bytes, out_bytes = 2 * batch * case.channels * case.size**2, 2 * batch * case.channels * size**2
    count = gpu_timing.sets(x_bytes + out_bytes)
    xs = images(count, batch, case.channels, case.size, case.size)
    gs = images(count, batch, case.channels, size, size)
    nchw, g_nchw = [x.contiguous() for x in xs], [g.contiguous() for g in gs]
    weight = torch.randn(case.channels, 1, case.kernel, case.kernel, device=DEVICE, dtype=DTYPE) / case.kernel
    strides, sides = (case.stride, case.stride), (case.kernel // 2,) * 4
    home = backend.passes(xs[0])
    around = [case.kernel // 2] * 2

    def theirs(g: Tensor, x: Tensor, w: Tensor, mask: list[bool]) -> Any:
        got = torch.ops.aten.convolution_backward(
            *(g, x, w, None, list(strides), around, [1, 1], False, [0, 0], case.channels, mask)
        )
        return got[0] if mask[0] else got[1]

    def ours(g: Tensor, x: Tensor, needed: tuple[bool, bool]) -> Any:
        dz = Gradient(Operand(g), g)
        made = home.depthwise_backward(dz, Operand(x), weight, strides, sides, (1, 1), needed)
        return made.weight if needed[0] else made.input

    operations = 2 * batch * case.channels * size**2 * case.kernel**2
    moved = x_bytes + out_bytes
    given = {"stride": case.stride, "padding": case.kernel // 2}
    for what, run, plain in (
        (
            "depthwise forward",
            lambda x, g: ops.depthwise_conv2d(x, weight, **given),
            lambda x, g, w: F.conv2d(x, w, None, **given, groups=case.channels),
        ),
        (
            "depthwise input gradient",
            lambda x, g: ours(g, x, (False, True)),
            lambda x, g, w: theirs(g, x, w, [True, False, False]),
        ),
        (
            "depthwise weight gradient",
            lambda x, g: ours(g, x, (True, False)),
            lambda x, g, w: theirs(g, x, w, [False, True, False]),
        ),
    ):
        runs: dict[str, Callable[[int], Any]] = {
            "ninefold": lambda n, run=run: run(xs[n], gs[n]),
            "cudnn_nhwc": lambda n, plain=plain: plain(xs[n], gs[n], weight),
            "cudnn_nchw": lambda n, plain=plain: plain(nchw[n], g_nchw[n], weight),
        }
        right = plain(xs[0].float(), gs[0].float(), weight.float())
        checks = {"ninefold": _distance(lambda run=run: run(xs[0], gs[0]), right)}
        yield _timed(what, case, runs, checks, FURTHEST, count, moved, operations)


def compiled(case: Separable, batch: int) -> dict[str, Any]:
    """The pair of a forward pass through torch.compile's max-autotune, beside ours."""
    size = -(-case.size // case.stride)
    moved = 2 * batch * (case.inputs * case.size**2 + case.outputs * size**2)
    count = gpu_timing.sets(moved)
    xs = images(count, batch, case.inputs, case.size, case.size)
    first, second, _ = _weights(case)
    geometry = {"stride": case.stride, "padding": 1}

    # Convolutions by cuDNN: torch 2.11's own template for grouped ones reads memory that is not its own on an
    # H200, which ends the process, and where it does not it takes 7 ms for cuDNN's 0.1.
    best = {"max_autotune": True, "max_autotune_conv_backends": "ATEN"}

    @torch.compile(options=best, dynamic=False)
    def pair(x: Tensor) -> Tensor:
        return F.relu(F.conv2d(F.relu(F.conv2d(x, first, None, **geometry, groups=case.inputs)), second))

    def ours(x: Tensor) -> Tensor:
        acts = {"depthwise_activation": "relu", "activation": "relu"}
        return ops.separable_conv2d(x, first, second, **geometry, **acts)

    runs: dict[str, Callable[[int], Any]] = {
        "ninefold": lambda n: ours(xs[n]),
        "torch_compile": lambda n: pair(xs[n]),
    }
    with torch.no_grad():
        checks = {"ninefold": _distance(lambda: ours(xs[0]), pair(xs[0]))}
        operations = 2 * batch * size**2 * case.inputs * (9 + case.outputs)
        return _timed("forward, torch.compile", case, runs, checks, FURTHEST, count, moved, operations)


def _weights(case: Separable) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (case.inputs, 1, 3, 3), (case.outputs, case.inputs, 1, 1), (case.outputs, case.inputs, 3, 3)
    scales = 3, case.inputs**0.5, 3 * case.inputs**0.5
    first, second, standard = (
        torch.randn(shape, device=DEVICE, dtype=DTYPE) / scale
        for shape, scale in zip(shapes, scales, strict=True)
    )
    return first, second, standard.contiguous(memory_format=torch.channels_last)


def _vector(channels: int) -> Tensor:
    return torch.rand(channels, device=DEVICE, dtype=DTYPE)


def _distance(run: Callable[[], Tensor], right: Tensor) -> float:
    return gpu_timing.distance(run().detach(), right.detach())


def _timed(
    what: str,
    case: Any,
    runs: Mapping[str, Callable[[int], Any]],
    checks: Mapping[str, float],
    furthest: float,
    count: int,
    moved: int,
    operations: int,
) -> dict[str, Any]:
    wrong = {name: away for name, away in checks.items() if not away <= furthest}
    began = time.perf_counter()
    timings = gpu_timing.interleaved({name: run for name, run in runs.items() if name not in wrong}, count)
    return {
        "what": what,
        "layer": str(case),
        "seconds": {name: timing.seconds for name, timing in timings.items()},
        "taken": {name: timing.how for name, timing in timings.items()},
        "distance": dict(checks),
        "wrong": sorted(wrong),
        "bytes": moved,
        "operations": operations,
        "spent": time.perf_counter() - began,
    }
