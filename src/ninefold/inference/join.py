"""Neighbouring kernels become one call: stretches of a graph that the extension runs as a plan.

Beside the packed layers a stretch holds what stands between them: additions, gates of squeeze-and-excitation,
global means, activations, flattening to (batch, C), and linear layers, which are pointwise convolutions of an
image of one pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from ninefold.inference.graph import arguments, attribute, is_view, operator, sizes, value, writes
from ninefold.inference.match import activation_of, is_constant, pair
from ninefold.inference.rewrite import root_of
from ninefold.ops import packed
from ninefold.ops.sequence import Sequence, Step, channel_norm, takes

# What a step does, to the values of which nodes, its layer, its options.
_Planned = tuple[str, tuple[Node, ...], packed.Packed | None, tuple[Any, ...]]


@dataclass
class _Stretch:
    """A sequence in the making: which node is which value."""

    inputs: list[Node] = field(default_factory=list)
    steps: list[_Planned] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    # A node -> the one whose numbers it has, flattened or whole.
    same: dict[Node, Node] = field(default_factory=dict)
    results: list[Node] = field(default_factory=list)


def join(graph: Graph, root: dict[str, Any], source: GraphModule) -> frozenset[str]:
    """Replace every stretch of two steps or more in `graph` by a call of a `Sequence` put into `root`.

    Returns the names of the linear layers' weights that are in one now.
    """
    linear: set[str] = set()
    left: dict[Node, Node] = {}  # what left an earlier stretch -> the node that stands for it now
    for index, stretch in enumerate(_stretches(graph, root, source)):
        linear.update(
            arguments(node)["weight"].target for node in stretch.nodes if operator(node) == "linear"
        )
        name = f"ninefold_stretch_{index}"
        root[name], leaving = _sequence(stretch)
        with graph.inserting_after(stretch.nodes[-1]):
            call = graph.call_module(name, tuple(left.get(node, node) for node in stretch.inputs))
        for number, node in reversed(list(enumerate(leaving))):
            with graph.inserting_after(call):
                result = graph.call_function(_item, (call, number))
            result.meta["val"] = node.meta["val"]
            left[node] = result
            for user in [user for user in node.users if user not in stretch.nodes]:
                user.replace_input_with(node, result)
        for node in reversed(stretch.nodes):
            graph.erase_node(node)
    return frozenset(linear)


def _item(results: tuple[torch.Tensor, ...], number: int) -> torch.Tensor:
    return results[number]


def _stretches(graph: Graph, root: dict[str, Any], source: GraphModule) -> list[_Stretch]:
    found = [_Stretch()]
    # A step copies what a view would share, so a view of memory that somebody writes to is no step.
    written = {root_of(node.args[0]) for node in graph.nodes if writes(node)}
    for node in graph.nodes:
        if not (is_view(node) and root_of(node) in written) and _extend(found[-1], node, root, source):
            continue
        # What computes no tensor of the stretch may stay before it.
        if node.op in ("placeholder", "get_attr"):
            continue
        if (
            node.op == "call_function"
            and not writes(node)
            and not set(node.all_input_nodes) & set(found[-1].nodes)
        ):
            continue
        if found[-1].nodes:
            found.append(_Stretch())
    return [stretch for stretch in found if len(stretch.steps) > 1]


def _extend(stretch: _Stretch, node: Node, root: dict[str, Any], source: GraphModule) -> bool:
    """Add a node to the stretch, if a plan has a step for it."""
    traced = value(node)
    if (
        traced is None
        or traced.dtype is not torch.float32
        or traced.device.type != "cpu"
        or traced.dim() not in (2, 4)
    ):
        return False
    if node.op == "call_module":
        layer = root.get(str(node.target))
        if not isinstance(layer, packed.Packed) or not takes(layer):
            return False
        return _step(stretch, node, "layer", tuple(node.args), layer)
    if node.target is channel_norm:
        x, gain, offset, epsilon = node.args
        constants = tuple(attribute(source, constant.target).detach() for constant in (gain, offset))  # type: ignore[union-attr]
        return _step(stretch, node, "layer_norm", (x,), options=(*constants, epsilon))
    name = operator(node)
    if not name or writes(node):
        return False
    given = arguments(node)
    if name == "add" and given.get("alpha", 1) == 1:
        return _same(node, given) and _step(stretch, node, "add", (given["self"], given["other"]))
    if name == "mul":
        x, gate = given["self"], given["other"]
        if _is_gate(gate, x):
            return _step(stretch, node, "scale", (x, gate))
        return _is_gate(x, gate) and _step(stretch, node, "scale", (gate, x))
    if _is_global_mean(name, given, traced):
        return _step(stretch, node, "mean", (given["self"],))
    if name == "cat" and given["dim"] in (1, -3) and traced.dim() == 4:
        return _step(stretch, node, "concatenation", tuple(given["tensors"]))
    if name == "slice" and traced.dim() == 4:
        return _channels(stretch, node, given)
    if name == "channel_shuffle":
        return _step(stretch, node, "shuffle", (given["self"],), options=(given["groups"],))
    if name in ("max_pool2d", "avg_pool2d") and traced.dim() == 4:
        return _pool(stretch, node, name, given)
    if name in ("flatten", "reshape", "view", "squeeze"):
        return _flattening(stretch, node, traced)
    if name == "linear" and value(given["input"]) is not None and given["input"].meta["val"].dim() == 2:
        return _linear(stretch, node, given, source)
    activation = activation_of(node)
    return activation is not None and _step(stretch, node, activation, (node.args[0],))


def _step(
    stretch: _Stretch,
    node: Node,
    what: str,
    operands: tuple[Any, ...],
    layer: packed.Packed | None = None,
    options: tuple[Any, ...] = (),
) -> bool:
    known = set(stretch.nodes)
    for operand in operands:
        traced = value(operand)
        if traced is None or traced.dtype is not torch.float32 or traced.device.type != "cpu":
            return False
        if operand not in known and traced.dim() not in (2, 4):
            return False
    for operand in operands:
        if operand not in known and operand not in stretch.inputs:
            stretch.inputs.append(operand)
    stretch.steps.append((what, operands, layer, options))
    stretch.nodes.append(node)
    stretch.results.append(node)
    return True


def _flattening(stretch: _Stretch, node: Node, traced: torch.Tensor) -> bool:
    """(batch, C, 1, 1) as (batch, C): no step at all, if the image is of this stretch."""
    x: Any = node.args[0]
    before = value(x)
    if before is None or x not in set(stretch.nodes) or before.dim() != 4 or traced.dim() != 2:
        return False
    if sizes(before)[2:] != (1, 1) or sizes(traced) != sizes(before)[:2]:
        return False
    stretch.same[node] = stretch.same.get(x, x)
    stretch.nodes.append(node)
    return True


def _channels(stretch: _Stretch, node: Node, given: dict[str, Any]) -> bool:
    """Some channels of an image; a slice of all rows, columns or images is no step at all."""
    x, dimension, start, end = given["self"], given["dim"] % 4, given["start"] or 0, given["end"]
    before = value(x)
    if before is None or given["step"] != 1 or not isinstance(start, int):
        return False
    size = sizes(before)[dimension]
    end = size if end is None else end
    if not isinstance(end, int) or start < 0 or end < 0:
        return False
    if start == 0 and end >= size and x in set(stretch.nodes):
        stretch.same[node] = stretch.same.get(x, x)
        stretch.nodes.append(node)
        return True
    if dimension != 1 or start >= end:
        return False
    return _step(stretch, node, "channels", (x,), options=(start, min(end, size)))


def _pool(stretch: _Stretch, node: Node, name: str, given: dict[str, Any]) -> bool:
    kernel, padding = pair(given["kernel_size"]), pair(given["padding"])
    # An empty stride is the kernel's size.
    window = kernel, pair(given["stride"] or kernel), padding, given["ceil_mode"]
    if name == "max_pool2d":
        largest = *window, pair(given["dilation"])
        return _step(stretch, node, "largest", (given["self"],), options=largest)
    if given["divisor_override"] is not None and given["divisor_override"] < 1:
        return False
    average = *window, given["count_include_pad"], given["divisor_override"]
    return _step(stretch, node, "average", (given["self"],), options=average)


def _linear(stretch: _Stretch, node: Node, given: dict[str, Any], source: GraphModule) -> bool:
    weight, bias = given["weight"], given["bias"]
    if not all(is_constant(source, constant) for constant in (weight, bias) if constant is not None):
        return False
    if weight.meta["val"].dtype is not torch.float32 or given["input"] not in set(stretch.nodes):
        return False
    matrix = attribute(source, weight.target).detach()[:, :, None, None]
    offset = None if bias is None else attribute(source, bias.target).detach()
    layer = packed.Conv2d(matrix, offset)
    layer.label = str(weight.target).removesuffix(".weight")
    return _step(stretch, node, "layer", (given["input"],), layer)


def _same(node: Node, given: dict[str, Any]) -> bool:
    ours, theirs = value(given["self"]), value(given["other"])
    return ours is not None and theirs is not None and sizes(ours) == sizes(theirs)


def _is_gate(gate: Any, x: Any) -> bool:
    ours, theirs = value(gate), value(x)
    if ours is None or theirs is None or ours.dim() != 4 or theirs.dim() != 4:
        return False
    return sizes(ours)[2:] == (1, 1) and sizes(ours)[:2] == sizes(theirs)[:2]


def _is_global_mean(name: str, given: dict[str, Any], traced: torch.Tensor) -> bool:
    if name not in ("adaptive_avg_pool2d", "mean"):
        return False
    x = value(given["self"])
    if x is None or x.dim() != 4:
        return False
    if name == "adaptive_avg_pool2d":
        return sizes(traced)[2:] == (1, 1)
    dimensions = given.get("dim")
    return dimensions is not None and sorted(dimension % 4 for dimension in dimensions) == [2, 3]


def _sequence(stretch: _Stretch) -> tuple[nn.Module, list[Node]]:
    numbers = {node: number for number, node in enumerate([*stretch.inputs, *stretch.results])}
    for node, image in stretch.same.items():
        numbers[node] = numbers[image]
    steps = tuple(
        Step(what, tuple(numbers[operand] for operand in operands), layer, options)
        for what, operands, layer, options in stretch.steps
    )
    inside = set(stretch.nodes)
    leaving = [node for node in stretch.nodes if any(user not in inside for user in node.users)]
    outputs = tuple((numbers[node], node.meta["val"].dim()) for node in leaving)
    return Sequence(len(stretch.inputs), steps, outputs), leaving
