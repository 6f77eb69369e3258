"""What a graph may not contain if parts of it are to run as kernels.

Kernels are packed before the graph runs, images change their memory format on the way, and a graph is run
twice where it is checked: none of that may be seen from outside.
"""

from __future__ import annotations

import operator as python
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from ninefold.inference.graph import arguments, is_view, operator, value, writes
from ninefold.ops.sequence import channel_norm

_OURS = (python.getitem, channel_norm)
_KNOWN = ("aten", "prims", "ninefold", "torchvision")
# Operators that change their running statistics, and do not say so in their schema.
_UPDATING = {
    "batch_norm": "training",
    "instance_norm": "use_input_stats",
    "native_batch_norm": "training",
    "_native_batch_norm_legit": "training",
    "_batch_norm_impl_index": "training",
}


def find(graph: Graph) -> str:
    """Why a simplified graph is left to PyTorch, or ""."""
    return next(filter(None, map(_obstacle, graph.nodes)), "") or _shared(graph)


def holder(node: Node) -> Node:
    """The value whose memory a node's result is part of: itself, unless it is a view."""
    while is_view(node) or (node.target is python.getitem and is_view(_first(node))):
        node = _first(node)
    return node


def results(graph: Graph) -> list[Node]:
    """The tensors that a graph returns, each once."""
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    return [node for node in dict.fromkeys(output.all_input_nodes) if value(node) is not None]


def _obstacle(node: Node) -> str:
    if node.op in ("placeholder", "output"):
        return ""
    if node.op == "get_attr":
        literal = not str(node.target).startswith("ninefold_weight_")
        copied = all(operator(user).startswith("lift_fresh") for user in node.users)
        return f"it holds the tensor {node.target}" if literal and not copied else ""
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return (
            ""
            if target in _OURS or _is_arithmetic(node)
            else f"it calls {getattr(target, '__name__', target)}"
        )
    if target.namespace not in _KNOWN:
        return f"it calls {target}, which may do more than compute"
    if torch.Tag.nondeterministic_seeded in target.tags:
        return f"it draws random numbers ({operator(node)})"
    if operator(node) == "as_strided":
        return "it reads memory by its strides (`as_strided`)"
    flag = _UPDATING.get(operator(node))
    if flag is not None and arguments(node)[flag] and arguments(node)["running_mean"] is not None:
        return "it updates running statistics"
    return _writing(node) if writes(node) else ""


def _is_arithmetic(node: Node) -> bool:
    """Whether a node computes a size from sizes; modes and functions of autograd look alike otherwise."""
    numbers = int | float | bool | torch.SymInt | torch.SymFloat | torch.SymBool
    operands = [node.meta.get("val"), *(arg.meta.get("val") for arg in node.all_input_nodes)]
    return all(isinstance(operand, numbers) for operand in operands)


def _writing(node: Node) -> str:
    target: Any = node.target
    given = arguments(node)
    written = pytree.tree_leaves(
        [
            given[argument.name]
            for argument in target._schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
    )
    if written != [node.args[0]]:
        return f"it writes into other tensors ({operator(node)})"
    into = holder(written[0])
    return "it writes into its inputs" if into.op in ("placeholder", "get_attr") else ""


def _shared(graph: Graph) -> str:
    holders = [holder(node) for node in results(graph)]
    if any(node.op in ("placeholder", "get_attr") for node in holders):
        return "it returns a view of its inputs"
    return "two of its results share memory" if len(set(holders)) < len(holders) else ""


def _first(node: Node) -> Any:
    return node.args[0]
