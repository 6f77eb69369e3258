"""How a case becomes tensors and a call: every operand guarded, every operator by its public name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import memory
import oracle
from drawn import Case, Stage
from ninefold import ops
from ninefold.ops import packed
from ninefold.training import chain

Operands = dict[str, torch.Tensor]


def operands(case: Case) -> Operands:
    """The case's tensors by name (x, weight0, bias0, weight1, ..., residual), the same each time."""
    random = np.random.default_rng([case.seed, case.index])
    made = {"x": _image(random, case, case.x)}
    for k, (stage, before) in enumerate(zip(case.stages, case.shapes, strict=False)):
        shape = (stage.out_channels, before[1] // stage.groups, *stage.kernel_size)
        last = case.operator == "conv2d" and case.index % 2 == 1  # read so where a network is channels-last
        made[f"weight{k}"] = _fill(memory.tensor(shape, channels_last=last), random, case)
        if case.operator == "chain":
            _tame(made[f"weight{k}"], case)
        if stage.bias:
            made[f"bias{k}"] = _fill(memory.tensor(shape[:1]), random, case)
        made |= _normalisation(random, stage, k)
    if case.residual:
        made["residual"] = _image(random, case, case.shapes[-1])
    return made


def upstream(case: Case) -> torch.Tensor:
    """The gradient that comes from above, in the layout of the image."""
    return _image(np.random.default_rng([case.seed, case.index, 1]), case, case.shapes[-1])


def results(case: Case, tensors: Operands, grad: torch.Tensor) -> list[torch.Tensor]:
    """Run the case once: its output, or the gradients that its direction asks for."""
    if case.direction == "forward":
        if case.operator == "chain":
            out, statistics = _run_chain(case, tensors)
            return [out, *(each for pair in statistics for each in pair if each.numel())]
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


def _run_chain(case: Case, t: Operands) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    names = ("weight", "bias", "gamma", "beta", "mean", "variance")
    tensors: list[Any] = [tuple(t.get(f"{name}{k}") for name in names) for k in range(len(case.stages))]
    stages = [_chain_stage(stage) for stage in case.stages]
    return chain.run(t["x"], stages, tensors, t.get("residual"))


def _chain_stage(stage: Stage) -> chain.Stage:
    flat = (*stage.kernel_size, *stage.stride, *stage.padding, stage.groups) == (1, 1, 1, 1, 0, 0, 0, 0, 1)
    norm = stage.normalisation and chain.Normalisation(oracle.EPS, stage.normalisation == "batch")
    return chain.Stage(
        "pointwise" if flat else "depthwise" if stage.groups > 1 else "standard",
        stage.stride,
        stage.padding,
        stage.dilation,
        stage.groups,
        norm or None,
        stage.activation,
    )


OPERATORS: dict[str, Callable[[Case, Operands], torch.Tensor]] = {
    "conv2d": _conv2d,
    "depthwise": _depthwise,
    "pointwise": _pointwise,
    "separable": _separable,
    "inverted": _inverted,
    "chain": lambda case, tensors: _run_chain(case, tensors)[0],
}
WITHOUT_GRADIENTS = {"inverted"}  # a packed layer: frozen weights


def _fill(tensor: torch.Tensor, random: np.random.Generator, case: Case) -> torch.Tensor:
    shape = tuple(tensor.shape)
    numbers = random.integers(-4, 5, shape) if case.integers else random.standard_normal(shape)
    return tensor.copy_(torch.from_numpy(numbers.astype(np.float32)))


def _normalisation(random: np.random.Generator, stage: Stage, k: int) -> Operands:
    """Gamma, beta and the running statistics of a stage, those that it has."""
    drawn: dict[str, np.ndarray] = {}
    count = stage.out_channels
    if stage.normalisation and stage.affine:
        drawn["gamma"] = random.uniform(0.5, 1.5, count) * random.choice((-1, 1), count)
        drawn["beta"] = random.standard_normal(count)
    if stage.normalisation == "running":
        drawn["mean"], drawn["variance"] = random.standard_normal(count), random.uniform(0.5, 4, count)
    return {
        f"{name}{k}": memory.tensor((count,)).copy_(torch.from_numpy(numbers.astype(np.float32)))
        for name, numbers in drawn.items()
    }


def _tame(weight: torch.Tensor, case: Case) -> None:
    """Keep the numbers of a chain where they neither saturate every activation nor need wide bounds."""
    if case.integers:
        weight.clamp_(-1, 1)
    else:
        weight.div_(weight[0].numel() ** 0.5)


def _image(random: np.random.Generator, case: Case, shape: tuple[int, ...]) -> torch.Tensor:
    if case.layout != "strided":
        return _fill(memory.tensor(shape, channels_last=case.layout == "nhwc"), random, case)
    n, c, h, w = shape  # every second channel and row of an image that is wider on each side
    wide = _fill(memory.tensor((n, 2 * c, 2 * h, w + 3), channels_last=True), random, case)
    return wide[:, 1::2, 1::2, 3:]
