"""From Dynamo's graph to one that `ninefold.inference` can match: aten operators, weights as constants.

Dynamo's graph calls PyTorch's functions and takes the weights as inputs. Traced once more, on Dynamo's fake
tensors and before anything is taken apart, it has the operators that `torch.export` gives. AOT Autograd would
give the pieces of which those are made, and takes longer: without compiling anything 0.7 s for MobileNetV2
and 0.4 s for ConvNeXt-Atto, where this whole backend takes 0.5 and 0.2 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from ninefold.inference import rewrite
from ninefold.inference.graph import arguments, operator
from ninefold.training import layout, obstacles


class Unsupported(Exception):  # noqa: N818
    """A graph that runs in PyTorch; the message says why."""


@dataclass(frozen=True)
class Captured:
    """A simplified graph with Dynamo's inputs, in Dynamo's order.

    `weights` are the inputs that it reads as constants instead: attribute of `source` → position.
    `statistics` says which of them, counted among themselves, are batch-norms' running statistics. `numbers`
    are the positions of the sizes among the inputs, which is what differs between two calls.
    """

    source: GraphModule
    weights: dict[str, int]
    statistics: frozenset[int]
    numbers: tuple[int, ...]


def capture(graph: GraphModule, inputs: list[Any]) -> Captured:
    """Trace Dynamo's graph; raises Unsupported where the rooms behind would not do it justice."""
    fakes = [node.meta.get("example_value") for node in graph.graph.find_nodes(op="placeholder")]
    mode = detect_fake_mode(fakes)
    if mode is None or len(fakes) != len(inputs) or any(fake is None for fake in fakes):
        raise Unsupported("it does not come from Dynamo")
    with mode:
        trace = make_fx(graph, tracing_mode="symbolic", pre_dispatch=True, _allow_non_fake_inputs=True)
        try:
            source = trace(*fakes)
        except DataDependentOutputException as error:
            raise Unsupported(f"it reads a number out of a tensor ({error.func})") from None
    weights, statistics = _weights(source, inputs)
    _drop_aliases(source)
    rewrite.simplify(source.graph)
    reason = obstacles.find(source.graph) or layout.keep(source.graph)
    if reason:
        raise Unsupported(reason)
    numbers = tuple(index for index, leaf in enumerate(inputs) if not isinstance(leaf, Tensor))
    return Captured(source, weights, statistics, numbers)


def _weights(source: GraphModule, inputs: list[Any]) -> tuple[dict[str, int], frozenset[int]]:
    """Turn parameters, and the running statistics of batch-norms, from inputs into attributes."""
    running = {
        arguments(node)[name]
        for node in source.graph.nodes
        if operator(node) == "batch_norm"
        for name in ("running_mean", "running_var")
    }
    inside = next(node for node in source.graph.nodes if node.op != "placeholder")
    weights: dict[str, int] = {}
    statistics = set()
    for index, (node, leaf) in enumerate(zip(_placeholders(source), inputs, strict=True)):
        if not node.users or not (isinstance(leaf, nn.Parameter) or node in running):
            continue
        if leaf.is_inference():
            raise Unsupported("its weights are inference tensors, whose changes leave no trace")
        if node in running:
            statistics.add(len(weights))
        name = f"ninefold_weight_{index}"
        source.register_buffer(name, leaf.detach(), persistent=False)
        with source.graph.inserting_before(inside):
            constant = source.graph.get_attr(name)
        constant.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(constant)
        weights[name] = index
    return weights, frozenset(statistics)


def _drop_aliases(source: GraphModule) -> None:
    """Let a tensor under another name be that tensor: without gradients there is no difference."""
    for node in source.graph.nodes:
        if operator(node) in ("alias", "detach"):
            node.replace_all_uses_with(node.args[0])
            source.graph.erase_node(node)


def _placeholders(source: GraphModule) -> list[Node]:
    return [node for node in source.graph.nodes if node.op == "placeholder"]
