"""How a case becomes tensors and a call: every operand guarded, every operator by its public name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import memory
import oracle
from drawn import Case
from ninefold import ops
from ninefold.ops import packed

Operands = dict[str, torch.Tensor]


def operands(case: Case) -> Operands:
    """The case's tensors by name (x, weight0, bias0, weight1, ..., residual), the same each time."""
    random = np.random.default_rng([case.seed, case.index])
    made = {"x": _image(random, case, case.x)}
    for k, (stage, before) in enumerate(zip(case.stages, case.shapes, strict=False)):
        shape = (stage.out_channels, before[1] // stage.groups, *stage.kernel_size)
        made[f"weight{k}"] = _fill(memory.tensor(shape), random, case)
        if stage.bias:
            made[f"bias{k}"] = _fill(memory.tensor(shape[:1]), random, case)
    if case.residual:
        made["residual"] = _image(random, case, case.shapes[-1])
    return made


def upstream(case: Case) -> torch.Tensor:
    """The gradient that comes from above, in the layout of the image."""
    return _image(np.random.default_rng([case.seed, case.index, 1]), case, case.shapes[-1])


def results(case: Case, tensors: Operands, grad: torch.Tensor) -> list[torch.Tensor]:
    """Run the case once: its output, or the gradients that its direction asks for."""
    if case.direction == "forward":
        return [OPERATORS[case.operator](case, tensors)]
    wanted = oracle.wanted(case)
    leaves = {name: t.detach().requires_grad_(name in wanted) for name, t in tensors.items()}
    out = OPERATORS[case.operator](case, leaves)
    return list(torch.autograd.grad(out, [leaves[name] for name in wanted], grad))


def _geometry(case: Case, stage: int) -> dict[str, Any]:
    one = case.stages[stage]
    return {"stride": one.stride, "padding": one.padding, "dilation": one.dilation}


def _conv2d(case: Case, t: Operands) -> torch.Tensor:
    (stage,) = case.stages
    options = {"groups": stage.groups, "activation": stage.activation}
    return ops.conv2d(t["x"], t["weight0"], t.get("bias0"), **_geometry(case, 0), **options)


def _depthwise(case: Case, t: Operands) -> torch.Tensor:
    (stage,) = case.stages
    return ops.depthwise_conv2d(
        t["x"], t["weight0"], t.get("bias0"), **_geometry(case, 0), activation=stage.activation
    )


def _pointwise(case: Case, t: Operands) -> torch.Tensor:
    (stage,) = case.stages
    return ops.pointwise_conv2d(
        t["x"], t["weight0"], t.get("bias0"), activation=stage.activation, residual=t.get("residual")
    )


def _separable(case: Case, t: Operands) -> torch.Tensor:
    first, second = case.stages
    weights = (t["weight0"], t["weight1"], t.get("bias0"), t.get("bias1"))
    activations = {"depthwise_activation": first.activation, "activation": second.activation}
    return ops.separable_conv2d(
        t["x"], *weights, **_geometry(case, 0), **activations, residual=t.get("residual")
    )


def _inverted(case: Case, t: Operands) -> torch.Tensor:
    layers = [
        packed.Conv2d(
            t[f"weight{k}"],
            t.get(f"bias{k}"),
            **_geometry(case, k),
            groups=stage.groups,
            activation=stage.activation,
        )
        for k, stage in enumerate(case.stages)
    ]
    out: torch.Tensor = packed.Inverted(*layers)(t["x"], t.get("residual"))
    return out


OPERATORS: dict[str, Callable[[Case, Operands], torch.Tensor]] = {
    "conv2d": _conv2d,
    "depthwise": _depthwise,
    "pointwise": _pointwise,
    "separable": _separable,
    "inverted": _inverted,
}
WITHOUT_GRADIENTS = {"inverted"}  # a packed layer: frozen weights


def _fill(tensor: torch.Tensor, random: np.random.Generator, case: Case) -> torch.Tensor:
    shape = tuple(tensor.shape)
    numbers = random.integers(-4, 5, shape) if case.integers else random.standard_normal(shape)
    return tensor.copy_(torch.from_numpy(numbers.astype(np.float32)))


def _image(random: np.random.Generator, case: Case, shape: tuple[int, ...]) -> torch.Tensor:
    if case.layout != "strided":
        return _fill(memory.tensor(shape, channels_last=case.layout == "nhwc"), random, case)
    n, c, h, w = shape  # every second channel and row of an image that is wider on each side
    wide = _fill(memory.tensor((n, 2 * c, 2 * h, w + 3), channels_last=True), random, case)
    return wide[:, 1::2, 1::2, 3:]
