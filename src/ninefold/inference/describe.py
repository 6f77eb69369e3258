"""What became of each layer of a graph, and why, in words."""

from __future__ import annotations

import math

from torch.fx import GraphModule, Node

from ninefold.inference import match, planner
from ninefold.inference.graph import operator, sizes, value
from ninefold.inference.summary import Layer

# Convolutions that no kernel does, and why.
_STRANGERS = {
    **dict.fromkeys(("conv1d", "conv3d"), "not a two-dimensional convolution"),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), "a transposed convolution"),
}


def describe(
    source: GraphModule,
    blocks: dict[match.Block, str],
    linear: frozenset[str],
    left: dict[Node, str],
    fallen: str,
    scale: tuple[int, int],
) -> tuple[Layer, ...]:
    """Describe each convolution and linear layer: in one of `blocks`, or in PyTorch, for what reason.

    `blocks` come with what their form was chosen for; `scale` is the batch of the examples, and of the graph.
    `linear` has the names of the linear layers' weights that run as kernels, `left` the reasons of single
    nodes, `fallen` that of all the rest.
    """
    owners = {stage_node: block for block in blocks for stage_node in block.nodes}
    examples, traced = scale
    layers, told = [], set()
    for node in source.graph.nodes:
        if operator(node) not in (*match.CONVOLUTIONS, *_STRANGERS, "linear"):
            continue
        block = owners.get(node)
        if block is None:
            count = _multiplications(node) * examples // traced
            if operator(node) == "linear" and node.args[1].target in linear:
                layers.append(Layer(_name(node), "kernel", "linear, as a pointwise layer", count))
                continue
            reason = left.get(node) or fallen or _STRANGERS.get(operator(node), "a linear layer")
            layers.append(Layer(_name(node), "pytorch", reason, count))
        elif block not in told:
            told.add(block)
            count = sum(stage.shape.multiplications for stage in block.stages)
            count = count * examples // traced
            kind = "kernel" if len(block.stages) == 1 else "fused"
            layers.append(Layer(block.name, kind, _what(block), count, blocks[block]))
    return tuple(layers)


def _what(block: match.Block) -> str:
    parts = []
    for stage in block.stages:
        height, width = stage.shape.kernel_size
        kind = planner.kind(stage)
        parts.append(f"{kind} {height}×{width}" if kind != "pointwise" else kind)
        parts += ["batch-norm folded"] * bool(stage.norms)
        parts += [] if stage.activation is None else [stage.activation]
    return ", ".join([*parts, *["residual added"] * (block.residual is not None)])


def _name(node: Node) -> str:
    weight = node.args[1]
    return str(weight.target).removesuffix(".weight") if isinstance(weight, Node) else node.name


def _multiplications(node: Node) -> int:
    """Multiplications of a convolution or a linear layer: each output sums over one kernel."""
    out, weight = value(node), value(node.args[1])
    if out is None or weight is None:
        return 0
    # In a transposed convolution each input meets a whole kernel.
    places = value(node.args[0]) if "transpose" in operator(node) else out
    return 0 if places is None else math.prod(sizes(places)) * math.prod(sizes(weight)[1:])
