"""Results keep the strides that PyTorch would give them: who takes them may call `view`."""

from __future__ import annotations

import torch
from torch.fx import Graph

from ninefold.inference.graph import value
from ninefold.inference.rewrite import replace_elsewhere
from ninefold.training.obstacles import holder, results


def keep(graph: Graph) -> str:
    """Bring what a graph returns into the memory format it was traced with; or say why not, else ""."""
    for node in results(graph):
        root = holder(node)
        traced = value(root)
        if traced is None:
            return "a result is part of several tensors"
        if traced.is_contiguous():
            memory_format = torch.contiguous_format
        elif traced.dim() == 4 and traced.is_contiguous(memory_format=torch.channels_last):
            memory_format = torch.channels_last
        else:
            return "a result has strides of its own"
        with graph.inserting_after(root):
            dense = graph.call_function(
                torch.ops.aten.contiguous.default, (root,), {"memory_format": memory_format}
            )
        dense.meta["val"] = traced
        replace_elsewhere(root, dense)
    return ""
