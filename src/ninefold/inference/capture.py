"""From a model and example inputs to a graph, by `torch.export`: one image size, any batch."""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Captured:
    """A graph that takes the flat inputs and returns the flat outputs.

    `batched` tells which inputs may have another first size than the example's; `batch` is that size in the
    traced graph, None where no input may.
    """

    graph: torch.fx.GraphModule
    out_spec: pytree.TreeSpec
    batched: tuple[bool, ...]
    batch: int | None
    seconds: float


def capture(model: nn.Module, inputs: tuple[Any, ...], *, dynamic: bool = True) -> Captured:
    """Export `model`, which is in eval mode, for these inputs.

    With `dynamic`, the first size of the tensors that share it may change afterwards; else the graph holds
    for these sizes alone. Raises what `torch.export` raises, for a network that fixes its batch too.
    """
    started = time.perf_counter()
    leaves, spec = pytree.tree_flatten(inputs)
    batched = of_one_batch(leaves) if dynamic else (False,) * len(leaves)
    leaves = [_of_two(leaf) if on else leaf for leaf, on in zip(leaves, batched, strict=True)]
    # Attached to the tensors, because a tree of sizes would have to follow the signature, `*args` and all.
    shapes: Any = torch.export.ShapesCollection()
    for leaf, on in zip(leaves, batched, strict=True):
        if on:
            shapes[leaf] = {0: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        program = torch.export.export(
            model,
            pytree.tree_unflatten(leaves, spec),
            dynamic_shapes=shapes if any(batched) else None,
            strict=False,
        )
        graph = _unguarded(program)
    batch = next((leaf.shape[0] for leaf, on in zip(leaves, batched, strict=True) if on), None)
    return Captured(graph, program.call_spec.out_spec, batched, batch, time.perf_counter() - started)


def _unguarded(program: torch.export.ExportedProgram) -> torch.fx.GraphModule:
    """The program as a module with flat inputs and outputs; the caller looks after shapes, not guards."""
    unguarded = (
        {"check_guards": False} if "check_guards" in inspect.signature(program.module).parameters else {}
    )
    module: Any = program.module(**unguarded)
    graph = torch.fx.Graph()
    out = graph.graph_copy(module.graph, {})
    graph.output(out)
    return torch.fx.GraphModule(module, graph)


def of_one_batch(leaves: list[Any]) -> tuple[bool, ...]:
    """Which inputs are tensors whose first size is the batch: that of the first image among them."""
    first = next((leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() == 4), None)
    return tuple(
        isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == first and first is not None
        for leaf in leaves
    )


def _of_two(tensor: Tensor) -> Tensor:
    """A size of one would be taken for a constant, so a batch of one is doubled."""
    if tensor.shape[0] == 1:
        return torch.cat([tensor, tensor])
    return tensor if tensor.shape[0] > 1 else tensor.new_zeros((2, *tensor.shape[1:]))
