"""A graph where gradients are wanted: chains in kernels, the rest in PyTorch's operators, under autograd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from ninefold.training import chains, checkpoints, gates, strides, summary
from ninefold.training.fused import Fused


class Learning:
    """Runs Dynamo's graph with its chains in kernels; `refused` is why there shall be none, or ""."""

    def __init__(self, source: GraphModule, inputs: list[Any], keep: str, *, refused: str) -> None:
        graph, root = checkpoints.copied(source)
        bodies = checkpoints.restore(graph, root)
        found = chains.find(graph)
        if refused:
            found = chains.Found((), dict.fromkeys(chains.convolutions(graph), refused))
        self._left = dict(found.left)
        for body in bodies:
            names = chains.convolutions(root[body].graph)
            self._left |= dict.fromkeys(names, "it is inside a checkpoint")
        self._fused = {
            chain.names: Fused(tuple(link.stage for link in chain.links), keep) for chain in found.chains
        }
        calls: dict[Node, Node] = {}
        for index, chain in enumerate(found.chains):
            name = f"ninefold_chain_{index}"
            root[name] = self._fused[chain.names]
            calls[chain.nodes[-1]] = _replace(graph, name, chain, calls)
        stands = set(calls.values())
        strides.keep(graph, stands)
        gates.place(graph, stands)
        self._forward = GraphModule(root, graph).forward
        weights = (index for index, leaf in enumerate(inputs) if isinstance(leaf, nn.Parameter))
        self._weight = next(weights, None)
        self._seen: set[int] = set()

    def run(self, *inputs: Any) -> Any:
        """Run the graph for the inputs that Dynamo passes: weights, sizes and images in one flat list."""
        if self._weight is not None and id(inputs[self._weight]) not in self._seen:
            self._seen.add(id(inputs[self._weight]))
            summary.remember(inputs[self._weight], self)
        return self._forward(*inputs)

    def report(self) -> summary.Report:
        """What became of the graph's convolutions, at the sizes that it has met."""
        left, fused = dict(self._left), []
        for names, module in self._fused.items():
            if module.reason:
                left |= dict.fromkeys(names, module.reason)
            else:
                fused.append(names)
        return summary.Report(tuple(fused), left)


def _replace(graph: Graph, name: str, chain: chains.Chain, calls: Mapping[Node, Node]) -> Node:
    """Let one call stand where the chain's last node stood; `calls` are those that stand already."""
    last = chain.nodes[-1]
    tensors = tuple(link.tensors for link in chain.links)
    momenta = tuple(link.momentum for link in chain.links)
    given = (chain.links[0].x, tensors, momenta, chain.residual)
    with graph.inserting_before(last):
        call = graph.call_module(name, map_arg(given, lambda node: calls.get(node, node)))
    call.meta = dict(last.meta)
    last.replace_all_uses_with(call)
    for node in reversed(chain.nodes):
        graph.erase_node(node)
    return call
