"""`torch.utils.checkpoint` inside Dynamo's graph, made the real one again.

Dynamo makes an operator of a checkpoint and leaves the rest to AOT Autograd. Run as it stands, that operator
passes batch-norm's counters to PyTorch's checkpoint as inputs, and the backward pass finds them changed; and
it does not restore the state of the random numbers. So each becomes a call of `torch.utils.checkpoint` that
closes over the tensors of modules, as the model's own call does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.utils.checkpoint import checkpoint


def recompute(
    body: GraphModule, given: tuple[Any, ...], passed: tuple[int, ...], **options: Any
) -> tuple[Tensor, ...]:
    """Call `body` with `given` under a checkpoint; those at the positions `passed` are its inputs."""

    def run(*inputs: Any) -> tuple[Tensor, ...]:
        everything = list(given)
        for position, value in zip(passed, inputs, strict=True):
            everything[position] = value
        results: tuple[Tensor, ...] = body(*everything)
        return results

    context = body.meta.get("_checkpoint_context_fn")
    if context is not None:
        options["context_fn"] = context
    results: tuple[Tensor, ...] = checkpoint(run, *(given[position] for position in passed), **options)
    return results


def restored(source: GraphModule) -> Callable[..., Any]:
    """What computes Dynamo's graph with real checkpoints: the graph itself, if it has none."""
    if not _checkpoints(source.graph):
        run: Callable[..., Any] = source.forward
        return run
    graph, root = copied(source)
    restore(graph, root)
    run = GraphModule(root, graph).forward
    return run


def copied(source: GraphModule) -> tuple[Graph, dict[str, Any]]:
    """A copy of Dynamo's graph, and the attributes that it names."""
    graph, copies = Graph(), dict[Node, Node]()
    graph.output(graph.graph_copy(source.graph, copies))
    for node, copy in copies.items():
        copy._dynamo_source = getattr(node, "_dynamo_source", None)
    targets = {str(node.target) for node in graph.find_nodes(op="get_attr")}
    return graph, {target: getattr(source, target) for target in targets}


def restore(graph: Graph, root: Mapping[str, Any]) -> list[str]:
    """Put PyTorch's checkpoint in the place of Dynamo's; returns the attributes that are their bodies."""
    bodies = []
    for node in _checkpoints(graph):
        body: Any = node.args[0]
        given = node.args[1:]
        passed = tuple(position for position, value in enumerate(given) if not _belongs_to_a_module(value))
        with graph.inserting_before(node):
            real = graph.call_function(recompute, (body, tuple(given), passed), dict(node.kwargs))
        real.meta = dict(node.meta)
        node.replace_all_uses_with(real)
        graph.erase_node(node)
        bodies.append(str(body.target))
        inputs = root[str(body.target)].graph.find_nodes(op="placeholder")
        for inside, value in zip(inputs, given, strict=True):
            inside._dynamo_source = getattr(value, "_dynamo_source", None)
    return bodies


def _checkpoints(graph: Graph) -> list[Node]:
    return graph.find_nodes(op="call_function", target=torch.ops.higher_order.tag_activation_checkpoint)


def _belongs_to_a_module(value: Any) -> bool:
    source = getattr(getattr(value, "_dynamo_source", None), "name", "") if isinstance(value, Node) else ""
    return "._parameters[" in source or "._buffers[" in source
