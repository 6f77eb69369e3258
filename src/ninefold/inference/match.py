"""Which parts of an exported graph one kernel can do: convolutions with what surrounds them, and pairs.

A stage is [pad] → convolution → [batch-norm or constant scale ...] → [activation]. A block is a stage, or a
depthwise stage with the pointwise stage that is its only user, or the one whose only user it is, or both (an
inverted residual), and then perhaps the addition of a residual. Every value inside a block has exactly one
user.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from ninefold.inference.graph import arguments, attribute, is_view, operator, sizes, sole_user, value, writes
from ninefold.ops import backend
from ninefold.shape import ConvShape, resolve_padding

CONVOLUTIONS = ("conv2d", "convolution")


@dataclass(frozen=True)
class Stage:
    """One convolution and what it absorbs; the names are those of tensors in the graph's module."""

    name: str
    x: Node
    convolution: Node
    nodes: tuple[Node, ...]
    shape: ConvShape
    weight: str
    bias: str | None
    norms: tuple[Node, ...]
    activation: str | None

    @property
    def tail(self) -> Node:
        """The node whose value is the stage's result."""
        return self.nodes[-1]

    @property
    def is_depthwise(self) -> bool:
        """Whether each of several channels is filtered on its own."""
        return self.shape.is_depthwise and self.shape.groups > 1


@dataclass(frozen=True)
class Block:
    """What one kernel does: a stage, a pair, an inverted residual; and the addition of `residual`."""

    stages: tuple[Stage, ...]
    residual: Node | None = None
    addition: Node | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes that the block replaces, in order."""
        inner = tuple(node for stage in self.stages for node in stage.nodes)
        return inner if self.addition is None else (*inner, self.addition)

    @property
    def tail(self) -> Node:
        """The node whose value is the block's result."""
        return self.nodes[-1]

    @property
    def operands(self) -> tuple[Node, ...]:
        """The nodes whose values its kernel takes: an image, and perhaps a residual."""
        x = self.stages[0].x
        return (x,) if self.residual is None else (x, self.residual)

    @property
    def name(self) -> str:
        """The names of its convolutions in the model."""
        return " + ".join(stage.name for stage in self.stages)


@dataclass(frozen=True)
class Found:
    """The blocks of a graph, and the convolutions that are left to PyTorch, each with the reason."""

    blocks: tuple[Block, ...]
    left: dict[Node, str]


def find(module: GraphModule) -> Found:
    """Find the blocks of a simplified graph."""
    position = {node: index for index, node in enumerate(module.graph.nodes)}
    changes = [position[node] for node in module.graph.nodes if writes(node)]
    stages: dict[Node, Stage] = {}
    left: dict[Node, str] = {}
    for node in module.graph.nodes:
        if operator(node) in CONVOLUTIONS:
            found = _stage(module, node)
            if isinstance(found, str):
                left[node] = found
            else:
                stages[node] = found

    blocks: list[Block] = []
    taken: set[Node] = set()
    for convolution, stage in stages.items():
        if convolution in taken:
            continue
        block = _with_residual(Block(_chain(stage, stages)), position, taken)
        start, end = position[convolution], position[block.tail]
        if any(start < change < end for change in changes):
            left[convolution] = "a value is changed in place between its parts"
            continue
        blocks.append(block)
        taken.update(block.nodes)
    return Found(tuple(blocks), left)


def _stage(module: GraphModule, convolution: Node) -> Stage | str:
    given = arguments(convolution)
    x, weight, bias = given["input"], given["weight"], given["bias"]
    reason = _refusal(module, given)
    if reason:
        return reason
    kernel, image = sizes(weight.meta["val"]), sizes(x.meta["val"])
    stride, dilation = pair(given["stride"]), pair(given["dilation"])
    padding = given["padding"] if isinstance(given["padding"], str) else pair(given["padding"])
    sides = resolve_padding(
        padding,
        kernel_size=(kernel[2], kernel[3]),
        stride=stride,
        dilation=dilation,
        input_size=(image[2], image[3]),
    )
    nodes = [convolution]
    around = _zeros_around(x) if sole_user(x) is convolution else None
    if around is not None:
        nodes.insert(0, x)
        x = x.args[0]
        image = sizes(x.meta["val"])
        sides = tuple(a + b for a, b in zip(sides, around, strict=True))  # type: ignore[assignment]
    shape = ConvShape(
        in_channels=image[1],
        out_channels=kernel[0],
        kernel_size=(kernel[2], kernel[3]),
        stride=stride,
        padding=sides,
        dilation=dilation,
        groups=given["groups"],
        input_size=(image[2], image[3]),
        batch=image[0],
    )
    norms = []
    while (norm := _after(nodes[-1])) is not None:
        if not _is_frozen_norm(module, norm) and constant_scale(module, norm, shape.out_channels) is None:
            break
        norms.append(norm)
        nodes.append(norm)
    activation = None
    following = _after(nodes[-1])
    if following is not None:
        activation = activation_of(following)
        if activation is not None:
            nodes.append(following)
    name = str(weight.target).removesuffix(".weight")
    bias_name = None if bias is None else str(bias.target)
    return Stage(
        name, x, convolution, tuple(nodes), shape, str(weight.target), bias_name, tuple(norms), activation
    )


def _refusal(module: GraphModule, given: dict[str, Any]) -> str:
    x, weight, bias = given["input"], given["weight"], given["bias"]
    traced = value(x)
    if traced is None or traced.dim() != 4 or given.get("transposed"):
        return "it is not a two-dimensional convolution of a batch"
    plain = traced.dtype is torch.float32 and traced.device.type == "cpu"
    if not plain and not (backend.on_gpu(traced) and traced.dtype in backend.GPU_DTYPES):
        dtype = str(traced.dtype).removeprefix("torch.")
        return f"its input is {dtype} on {traced.device.type}, not float32 on cpu"
    if not is_constant(module, weight) or not (bias is None or is_constant(module, bias)):
        return "its weights are computed or changed while the network runs"
    if weight.meta["val"].dtype is not traced.dtype:
        return f"its weights are not {str(traced.dtype).removeprefix('torch.')}"
    return ""


def is_constant(module: GraphModule, node: Any) -> bool:
    """Whether a node is a tensor of the module that nothing changes while the network runs."""
    if not isinstance(node, Node) or node.op != "get_attr" or value(node) is None:
        return False
    same = [other for other in module.graph.nodes if other.op == "get_attr" and other.target == node.target]
    changed = any(writes(user) and user.args[0] is other for other in same for user in other.users)
    return not changed and isinstance(attribute(module, node.target), torch.Tensor)


def _is_frozen_norm(module: GraphModule, node: Node) -> bool:
    if operator(node) != "batch_norm":
        return False
    given = arguments(node)
    constants = [given[name] for name in ("weight", "bias") if given[name] is not None]
    constants += [given["running_mean"], given["running_var"]]
    return not given["training"] and all(is_constant(module, constant) for constant in constants)


def constant_scale(module: GraphModule, node: Node, channels: int) -> torch.Tensor | None:
    """The (C,) numbers by which a node multiplies the channels of an image, if they are constants."""
    if operator(node) != "mul" or len(node.args) != 2:
        return None
    constant: Any = node.args[1]
    traced = value(constant)
    if traced is None or sizes(traced) not in ((1, channels, 1, 1), (channels, 1, 1)):
        return None
    while is_view(constant):
        constant = constant.args[0]
    if not is_constant(module, constant):
        return None
    held: torch.Tensor = attribute(module, constant.target)
    return held.detach().flatten() if held.numel() == channels else None


def _zeros_around(node: Node) -> tuple[int, int, int, int] | None:
    """What a node adds around its image, (left, right, top, bottom), if that is zeros and nothing else."""
    if operator(node) not in ("pad", "constant_pad_nd"):
        return None
    given = arguments(node)
    pads = list(given["pad"])
    if given.get("mode", "constant") != "constant" or given["value"] not in (None, 0):
        return None
    if not all(isinstance(pad, int) and pad >= 0 for pad in pads) or any(pads[4:]):
        return None
    left, right, top, bottom = [*pads, 0, 0, 0, 0][:4]
    return left, right, top, bottom


def _after(node: Node) -> Node | None:
    """The only user of a value, if it uses it as its first argument alone."""
    user = sole_user(node)
    if user is None or user.op != "call_function" or not user.args or user.args[0] is not node:
        return None
    uses = [arg for arg in (*user.args, *user.kwargs.values()) if arg is node]
    return user if len(uses) == 1 else None


def _clamp(given: dict[str, Any]) -> str | None:
    low, high = given.get("min_val", given.get("min")), given.get("max_val", given.get("max"))
    if low == 0 and high == 6:
        return "relu6"
    return "relu" if low == 0 and high is None else None


# Operator → its arguments → the name of the activation, or None if these arguments make it another function.
_ACTIVATIONS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "relu": lambda given: "relu",
    "relu6": lambda given: "relu6",
    "hardtanh": _clamp,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "silu": lambda given: "silu",
    "hardswish": lambda given: "hardswish",
    "gelu": lambda given: "gelu_tanh" if given["approximate"] == "tanh" else "gelu",
    "hardsigmoid": lambda given: "hardsigmoid",
    "sigmoid": lambda given: "sigmoid",
}


def activation_of(node: Node) -> str | None:
    """The activation that a node computes, by its name in `ninefold.ops`, or None."""
    name = operator(node)
    return activation_called(name, arguments(node)) if name in _ACTIVATIONS and not writes(node) else None


def activation_called(name: str, given: dict[str, Any]) -> str | None:
    """The activation that an operator computes with these arguments, by its name here, or None."""
    return _ACTIVATIONS[name](given) if name in _ACTIVATIONS else None


def _chain(stage: Stage, stages: dict[Node, Stage]) -> tuple[Stage, ...]:
    """The stage and those that run as one with it: a depthwise one with a pointwise before, after or both."""
    second = _stage_after(stage, stages)
    if second is None:
        return (stage,)
    if stage.is_depthwise and second.shape.is_pointwise:
        return stage, second
    if not (stage.shape.is_pointwise and second.is_depthwise and second.shape.multiplier == 1):
        return (stage,)
    third = _stage_after(second, stages)
    return (stage, second, third) if third is not None and third.shape.is_pointwise else (stage, second)


def _stage_after(stage: Stage, stages: dict[Node, Stage]) -> Stage | None:
    """The stage that is the only user of this one's result and takes it as its image."""
    user = sole_user(stage.tail)
    for after in (user, sole_user(user) if user is not None else None):  # a pad may stand between
        found = stages.get(after) if after is not None else None
        if found is not None and found.x is stage.tail:
            return found
    return None


def _with_residual(block: Block, position: dict[Node, int], taken: set[Node]) -> Block:
    """The block with the addition after it, if that adds a value of the same shape, known by then."""
    tail = block.tail
    user = sole_user(tail)
    if user is None or user in taken or user.target is not torch.ops.aten.add.Tensor or user.kwargs:
        return block
    others = [arg for arg in user.args if isinstance(arg, Node) and arg is not tail]
    if len(others) != 1 or len(user.args) != 2:
        return block
    ours, theirs = value(tail), value(others[0])
    if ours is None or theirs is None or ours.dtype != theirs.dtype or ours.device != theirs.device:
        return block
    if sizes(ours) != sizes(theirs):
        return block
    return Block(block.stages, others[0], user)


def pair(numbers: Any) -> tuple[int, int]:
    """One number or two as (height, width)."""
    if isinstance(numbers, int):
        return numbers, numbers
    return int(numbers[0]), int(numbers[-1])
