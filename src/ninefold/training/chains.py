"""Which parts of Dynamo's graph are chains: convolutions with what follows them, one after another.

A stage is [pad] → convolution → [batch-norm] → [activation]; a chain is stages of which each takes the one
before it as its image, perhaps an activation ahead of the first, and perhaps the addition of a residual.
Every value inside has exactly one user.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from ninefold.inference.graph import sole_user
from ninefold.ops import backend
from ninefold.shape import resolve_padding
from ninefold.training.reading import activation, is_plain, read, writes
from ninefold.training.stages import Normalisation, Stage


@dataclass(frozen=True)
class Link:
    """One stage and where it stands: its image, its nodes, its tensors' nodes, its momentum (or a node)."""

    name: str
    stage: Stage
    x: Node
    convolution: Node
    nodes: tuple[Node, ...]
    tensors: tuple[Node | None, ...]
    momentum: Any

    @property
    def tail(self) -> Node:
        """The node whose value is the stage's result."""
        return self.nodes[-1]


@dataclass(frozen=True)
class Chain:
    """Links, and perhaps the addition of `residual` to the last one's result."""

    links: tuple[Link, ...]
    residual: Node | None = None
    addition: Node | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes that the chain replaces, in order."""
        inner = tuple(node for link in self.links for node in link.nodes)
        return inner if self.addition is None else (*inner, self.addition)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its convolutions in the model."""
        return tuple(link.name for link in self.links)


@dataclass(frozen=True)
class Found:
    """The chains of a graph, and its other convolutions: name → why each is left to PyTorch."""

    chains: tuple[Chain, ...]
    left: dict[str, str]


def find(graph: Graph) -> Found:
    """Find the chains of a graph that Dynamo traced."""
    links: dict[Node, Link] = {}
    left: dict[str, str] = {}
    for node in graph.nodes:
        call = read(node)
        if call is None or call.name != "conv2d":
            continue
        link = _link(node, call.given)
        if isinstance(link, str):
            left[_name(call.given["weight"], node)] = link
        else:
            links[node] = link
    chains: list[Chain] = []
    taken: set[Node] = set()
    order = _Order(graph)
    for convolution, link in links.items():
        if convolution in taken:
            continue
        chain = _follow(link, links, order)
        if order.between(led := _led(chain, taken)) == "":
            chain = led
        if user := _addition(chain, taken):
            longer = Chain(chain.links, *user)
            chain = chain if order.between(longer) else longer
        taken.update(chain.nodes)
        stages = [part.stage for part in chain.links]
        reason = order.between(chain)
        if not any(stage.kind == "depthwise" or stage.normalisation for stage in stages):
            reason = "neither depthwise nor followed by batch-norm"
        if reason:
            left.update({part.name: reason for part in chain.links})
        else:
            chains.append(chain)
    return Found(tuple(chains), left)


def convolutions(graph: Graph) -> list[str]:
    """The names of all convolutions of a graph."""
    calls = ((node, read(node)) for node in graph.nodes)
    return [_name(call.given["weight"], node) for node, call in calls if call and call.name == "conv2d"]


def traced(node: Any) -> Tensor | None:
    """The fake tensor that Dynamo saw as a node's value, or None."""
    example = node.meta.get("example_value") if isinstance(node, Node) else None
    return example if isinstance(example, Tensor) else None


def _link(convolution: Node, given: dict[str, Any]) -> Link | str:
    x, weight, bias = given["input"], given["weight"], given["bias"]
    image, kernel = traced(x), traced(weight)
    if image is None or kernel is None or image.dim() != 4:
        return "it is not a two-dimensional convolution of a batch"
    for what, tensor in (("input", image), ("weight", kernel)):
        # On a GPU the dtypes need not agree yet: autocast sees to that when the graph runs.
        plain = tensor.dtype is torch.float32 and tensor.device.type == "cpu"
        if not plain and not (backend.on_gpu(tensor) and tensor.dtype in backend.GPU_DTYPES):
            dtype = str(tensor.dtype).removeprefix("torch.")
            return f"its {what} is {dtype} on {tensor.device.type}, not float32 on cpu"
    _, per_group, *window = (int(size) for size in kernel.shape)
    stride, dilation, groups = _pair(given["stride"]), _pair(given["dilation"]), int(given["groups"])
    padding = given["padding"] if isinstance(given["padding"], str) else _pair(given["padding"])
    sides = resolve_padding(
        padding, kernel_size=(window[0], window[1]), stride=stride, dilation=dilation, input_size=(1, 1)
    )
    nodes = [convolution]
    around = _zeros_around(x) if isinstance(x, Node) and sole_user(x) is convolution else None
    if around is not None:
        nodes.insert(0, x)
        x = x.args[0]
        sides = tuple(a + b for a, b in zip(sides, around, strict=True))  # type: ignore[assignment]
    kind: Any = "standard"
    if groups > 1 and per_group == 1:
        if int(kernel.shape[0]) != groups:
            # Left out by itself, or the whole chain around it would stay in PyTorch.
            return "a depth multiplier"
        kind = "depthwise"
    elif (window, groups, stride, sides) == ([1, 1], 1, (1, 1), (0, 0, 0, 0)):
        kind = "pointwise"
    norm, momentum, affine = None, 0.0, (None, None, None, None)
    call = _after(nodes[-1])
    if call is not None and call.name == "batch_norm":
        norm = Normalisation(float(call.given["eps"]), bool(call.given["training"]))
        momentum = call.given["momentum"]
        affine = tuple(call.given[name] for name in ("weight", "bias", "running_mean", "running_var"))
        nodes.append(_user(nodes[-1]))
        call = _after(nodes[-1])
    act = activation(call) if call is not None else None
    if act is not None:
        nodes.append(_user(nodes[-1]))
    stage = Stage(kind, stride, sides, dilation, groups, norm, act)
    return Link(
        _name(weight, convolution), stage, x, convolution, tuple(nodes), (weight, bias, *affine), momentum
    )


def _zeros_around(node: Node) -> tuple[int, int, int, int] | None:
    """What a node adds around its image, (left, right, top, bottom), if it is zeros, known beforehand."""
    call = read(node)
    if call is None or call.name != "pad" or call.given["mode"] != "constant":
        return None
    pads = list(call.given["pad"])
    if call.given["value"] not in (None, 0) or not all(type(pad) is int and pad >= 0 for pad in pads):
        return None
    left, right, top, bottom = [*pads, 0, 0, 0, 0][:4]
    return None if any(pads[4:]) else (left, right, top, bottom)


class _Order:
    """What stands between the first and the last node of a chain, which becomes one call at the last."""

    def __init__(self, graph: Graph) -> None:
        self._position = {node: index for index, node in enumerate(graph.nodes)}
        self._barriers = {
            index for node, index in self._position.items() if not (is_plain(node) or _counts_batches(node))
        }

    def between(self, chain: Chain) -> str:
        """Why a chain cannot be one call, or ""."""
        own = {self._position[node] for node in chain.nodes}
        inside = set(range(min(own), max(own))) - own
        if not inside.isdisjoint(self._barriers):
            return "something between its parts does more than compute"
        running = [tensor for link in chain.links for tensor in link.tensors[4:] if tensor is not None]
        if any(self._position[user] in inside for tensor in running for user in tensor.users):
            return "its running statistics are used between its parts"
        return ""


def _follow(link: Link, links: dict[Node, Link], order: _Order) -> Chain:
    """The longest chain that begins with a link."""
    chain = Chain((link,))
    while True:
        tail = chain.links[-1].tail
        user = sole_user(tail)
        padded = sole_user(user) if user is not None else None
        following = links.get(user) or links.get(padded)  # type: ignore[arg-type]
        if following is None or following.x is not tail:
            return chain
        longer = Chain((*chain.links, following))
        if order.between(longer):
            return chain
        chain = longer


def _led(chain: Chain, taken: set[Node]) -> Chain:
    """The chain with the activation that stands ahead of it, where the kernels read through that."""
    first, *others = chain.links
    call = read(first.x) if isinstance(first.x, Node) and first.x not in taken else None
    name = activation(call) if call is not None else None
    if call is None or name is None or sole_user(first.x) is not first.nodes[0] or writes(first.x):
        return chain
    x, image = call.given["input"], traced(call.given["input"])
    if first.stage.kind == "standard" or image is None or image.device.type != "cpu" or not _stays(x):
        return chain
    stage, nodes = replace(first.stage, ahead=name), (first.x, *first.nodes)
    return Chain((replace(first, stage=stage, x=x, nodes=nodes), *others))


def _stays(value: Node) -> bool:
    """Whether nobody writes into a value once it is there: it can be kept for the backward pass."""
    calls = [read(user) for user in value.users]
    if read(value) is None or writes(value) or not all(calls):
        return False  # a caller's, another's by a second name, or seen by what is not known
    return not any(
        writes(user) and call.given["input"] is value
        for user, call in zip(value.users, calls, strict=True)
        if call is not None
    )


def _addition(chain: Chain, taken: set[Node]) -> tuple[Node, Node] | None:
    """What is added to the chain's result, if it is an image of the same shape, and the addition."""
    tail = chain.nodes[-1]
    user = sole_user(tail)
    call = read(user) if user is not None and user not in taken else None
    if user is None or call is None or call.name != "add" or call.given.get("alpha", 1) != 1:
        return None
    one, other = call.given["input"], call.given["other"]
    if one is not tail and writes(user):
        return None
    residual = other if one is tail else one
    ours, theirs = traced(tail), traced(residual)
    if residual is tail or ours is None or theirs is None:
        return None
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype or ours.device != theirs.device:
        return None
    return residual, user


def _counts_batches(node: Node) -> bool:
    """Whether a node is batch-norm's `num_batches_tracked.add_(1)`, which touches no image and no weight."""
    into = node.args[0] if node.op == "call_method" and node.target == "add_" and node.args else None
    counter = traced(into)
    return counter is not None and not counter.is_floating_point() and counter.dim() == 0


def _after(node: Node) -> Any:
    """What the only user of a value calls, if it takes it as its first argument alone; else None."""
    user = sole_user(node)
    call = read(user) if user is not None else None
    if call is None or call.given.get("input") is not node:
        return None
    return call if sum(value is node for value in call.given.values()) == 1 else None


def _user(node: Node) -> Node:
    return next(iter(node.users))


def _name(weight: Any, convolution: Node) -> str:
    """The layer's name in the model, as far as Dynamo's graph knows it."""
    source = getattr(weight, "_dynamo_source", None)
    path = re.findall(r"_modules\['([^']+)'\]", str(getattr(source, "name", "")))
    return ".".join(path) or convolution.name


def _pair(numbers: Any) -> tuple[int, int]:
    if isinstance(numbers, int):
        return numbers, numbers
    return int(numbers[0]), int(numbers[-1])
