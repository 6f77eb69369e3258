"""The exported graph's channels made easy to match: shuffles by their name, depth multipliers as copies."""

from __future__ import annotations

import torch
from torch.fx import Graph

from ninefold.inference.graph import arguments, operator, sole_user, value

aten = torch.ops.aten


def find_shuffles(graph: Graph) -> None:
    """Groups of channels apart, transposed, together again: a shuffle of channels (ShuffleNet)."""
    for node in list(graph.nodes):
        before, apart = value(node.args[0]) if node.args else None, value(node)
        if operator(node) not in ("view", "reshape") or before is None or apart is None:
            continue
        swapped = sole_user(node)
        if before.dim() != 4 or apart.dim() != 5 or swapped is None or operator(swapped) != "transpose":
            continue
        if {arguments(swapped)[name] % 5 for name in ("dim0", "dim1")} != {1, 2}:
            continue
        dense = sole_user(swapped)
        last = sole_user(dense) if dense is not None and operator(dense) == "contiguous" else dense
        together = value(last)
        if last is None or together is None or operator(last) not in ("view", "reshape"):
            continue
        if together.shape[1:] != before.shape[1:] or apart.shape[3:] != before.shape[2:]:
            continue
        groups = apart.shape[1]
        if not isinstance(groups, int):
            continue
        with graph.inserting_before(last):
            shuffled = graph.call_function(aten.channel_shuffle.default, (node.args[0], groups))
        shuffled.meta["val"] = last.meta["val"]
        last.replace_all_uses_with(shuffled)
        for part in (last, *([dense] if dense is not last else []), swapped, node):
            graph.erase_node(part)


def spread_multipliers(graph: Graph) -> None:
    """K filters for each channel are one filter for each of K copies of it: of that there are fast kernels.

    64 channels of 14×14 with three filters each, then pointwise to 64, on one AVX-512 core: 0.75 ms where the
    inputs were gathered one by one, 0.10 with copies.
    """
    for node in list(graph.nodes):
        if operator(node) not in ("conv2d", "convolution"):
            continue
        given = arguments(node)
        x, weight = given["input"], value(given["weight"])
        image, groups = value(x), given["groups"]
        if image is None or weight is None or image.dim() != 4 or groups == 1 or given.get("transposed"):
            continue
        times, rest = divmod(weight.shape[0], groups)
        if times == 1 or rest or weight.shape[1] != 1 or operator(x) in ("pad", "constant_pad_nd"):
            continue
        with graph.inserting_before(node):
            copies = graph.call_function(aten.cat.default, ([x] * times, 1))
            copies.meta["val"] = torch.cat([image] * times, 1)
            x = graph.call_function(aten.channel_shuffle.default, (copies, times))
        x.meta["val"] = copies.meta["val"]
        node.args, node.kwargs = tuple({**given, "input": x, "groups": groups * times}.values()), {}
