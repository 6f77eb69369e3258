"""Chains give channels-last images; who could notice gets the strides that PyTorch would give.

Operators of the table below compute the same from either, and pass the format on. Where anything else takes
an image, `view` and what leaves the graph above all, it is copied: dropout too, whose random numbers follow
memory.
"""

from __future__ import annotations

import operator as python
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import Graph, Node

from ninefold.training.chains import traced
from ninefold.training.reading import read, writes

_AGNOSTIC: frozenset[Any] = frozenset(
    {
        *(python.add, python.iadd, python.mul, python.imul, python.sub, python.truediv, python.neg),
        *(torch.add, torch.mul, torch.sub, torch.cat, torch.concat, torch.tanh, torch.mean, torch.flatten),
        *(F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.avg_pool2d, F.max_pool2d, torch.max_pool2d),
        *(F.leaky_relu, F.elu, F.mish, F.softplus, F.interpolate, F.group_norm),
        *(
            "add",
            "add_",
            "mul",
            "mul_",
            "mean",
            "sum",
            "flatten",
            "reshape",
            "size",
            "dim",
            "tanh",
            "new_empty",
        ),
    }
)


def keep(graph: Graph, chains: Collection[Node]) -> None:
    """Follow the images that `chains` give; copy them as they are made if their strides may be seen."""
    loose = {node for node in chains if not _is_channels_last(node)}
    for node in list(graph.nodes):
        if node not in loose and not (_passes_on(node) and any(x in loose for x in node.all_input_nodes)):
            continue
        # A chain makes its images channels-last itself.
        if all(user in chains or _tolerates(user, node) for user in node.users):
            loose.add(node)
            continue
        loose.discard(node)
        with graph.inserting_after(node):
            dense = graph.call_method("contiguous", (node,))
        dense.meta = dict(node.meta)
        node.replace_all_uses_with(dense, delete_user_cb=lambda user, dense=dense: user is not dense)


def _passes_on(node: Node) -> bool:
    tensor = traced(node)
    return _is_agnostic(node) and (tensor is None or tensor.dim() == 4)


def _tolerates(user: Node, value: Node) -> bool:
    """Whether a user computes the same from any strides; what is written to must stay one tensor."""
    return _is_agnostic(user) and not (writes(user) and len(value.users) > 1)


def _is_agnostic(node: Node) -> bool:
    return node.op in ("call_function", "call_method") and (
        node.target in _AGNOSTIC or read(node) is not None
    )


def _is_channels_last(node: Node) -> bool:
    """Whether PyTorch would give channels-last too. Asks no symbolic size, which would become a guard."""
    tensor = traced(node)
    step = tensor.stride()[1] if tensor is not None else 0
    return isinstance(step, int) and step == 1
