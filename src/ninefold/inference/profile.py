"""Where a network that `for_inference` returned spends its time, in its own run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from ninefold.inference.graph import operator
from ninefold.inference.result import InferenceModel
from ninefold.ops.sequence import Sequence


@dataclass(frozen=True)
class Part:
    """A step of the network: `label` names the layers that a kernel stands for, "a + b", or is empty.

    `what` is "kernel", a step between kernels ("add", "mean", an activation), or a PyTorch operator's name.
    """

    label: str
    what: str
    seconds: float


def profile(model: InferenceModel, *inputs: Any) -> tuple[Part, ...]:
    """Run `model` once on positional `inputs`, and say how long each part took, in the order they ran.

    Inside a stretch the extension's own clock is read between steps; elsewhere each node of the graph is
    timed, without what Python spends between them. Nothing is fused or split for it. Raises ValueError for a
    network that runs whole in PyTorch, which has no parts.
    """
    plan = model.plan_for(*inputs)
    if isinstance(plan, str):
        raise ValueError(f"`model` must have parts to time, but {plan}")
    clock = _Clock(plan.run)
    with torch.no_grad():
        clock.run(*pytree.tree_leaves(inputs))
    return tuple(clock.parts)


class _Clock(Interpreter):
    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.parts: list[Part] = []

    def run_node(self, n: Node) -> Any:
        called = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        if isinstance(called, Sequence):
            operands, _ = self.fetch_args_kwargs_from_env(n)
            results, seconds = called.timed(*operands)
            self.parts += [
                Part(step.layer.label if step.layer else "", "kernel" if step.layer else step.what, each)
                for step, each in zip(called.steps, seconds, strict=True)
            ]
            return results
        start = time.perf_counter()
        result = super().run_node(n)
        taken = time.perf_counter() - start
        if n.op in ("call_function", "call_module", "call_method"):
            self.parts.append(Part(_label(n, called), _what(n, called), taken))
        return result


def _label(node: Node, called: Any) -> str:
    if called is not None:
        return str(getattr(called, "label", ""))
    weight = node.args[1] if len(node.args) > 1 else None
    if not operator(node).startswith(("conv", "linear")) or not isinstance(weight, Node):
        return ""
    return str(weight.target).removesuffix(".weight")


def _what(node: Node, called: Any) -> str:
    if called is not None:
        return "kernel"
    return operator(node) or str(getattr(node.target, "__name__", node.target))
