"""The exported graph made easy to match, its meaning unchanged.

In-place operators on values that nothing else sees become functional ones (and go back, where they are left
over at the end); dropout that does nothing disappears; ninefold's own operators are written out in PyTorch's,
so that one set of rules matches both; views become reshapes, because images turn channels-last.
"""

from __future__ import annotations

import operator as python
from typing import Any

import torch
from torch.fx import Graph, Node

from ninefold.inference import channels
from ninefold.inference.graph import arguments, is_view, operator, sole_user, value, writes
from ninefold.ops.sequence import channel_norm

aten = torch.ops.aten

# Operators whose result shares memory with none of their arguments.
_FRESH = """
    conv2d convolution conv1d conv_transpose2d batch_norm layer_norm group_norm linear matmul mm bmm
    addmm add sub mul div neg pow exp sqrt rsqrt mean sum amax amin max_pool2d avg_pool2d
    adaptive_avg_pool2d adaptive_max_pool2d cat stack pad constant_pad_nd relu relu6 hardtanh silu
    hardswish gelu hardsigmoid sigmoid tanh elu leaky_relu prelu mish softplus softmax log_softmax clamp
    clamp_min clamp_max upsample_nearest2d upsample_bilinear2d scaled_dot_product_attention clone
"""
FRESH = frozenset(_FRESH.split())
_DROPOUTS = ("dropout", "dropout_", "feature_dropout", "feature_dropout_")
_IN_PLACE = "ninefold_in_place"


def simplify(graph: Graph) -> None:
    """Make the graph ready to match."""
    _write_out(graph)
    _drop_dropout(graph)
    _slice_splits(graph)
    channels.find_shuffles(graph)
    channels.spread_multipliers(graph)
    _norm_channels(graph)
    _rebind(graph)
    _protect_changed_views(graph)


def restore_in_place(graph: Graph) -> None:
    """Give back their memory-saving form to the in-place operators that were not absorbed."""
    for node in graph.nodes:
        before = node.args[0] if _IN_PLACE in node.meta else None
        if (
            isinstance(before, Node)
            and len(before.users) == 1
            and (_fresh(before) or before.op == "call_module")
        ):
            node.target = node.meta[_IN_PLACE]


def reshape_views(graph: Graph) -> None:
    """Let views copy where channels-last strides do not allow them, unless their memory is written to."""
    written = {root for node in graph.nodes if writes(node) for root in [root_of(node.args[0])]}
    for node in graph.nodes:
        if node.target is aten.view.default and root_of(node) not in written:
            node.target = aten.reshape.default


def _write_out(graph: Graph) -> None:
    for node in list(graph.nodes):
        namespace = getattr(node.target, "namespace", None)
        if node.op != "call_function" or namespace != "ninefold":
            continue
        given = arguments(node)
        with graph.inserting_before(node):
            out = _written_out(graph, node.target._opname, given)
        node.replace_all_uses_with(out)
        graph.erase_node(node)


def _written_out(graph: Graph, name: str, given: dict[str, Any]) -> Node:
    x = given["x"]
    if name == "separable_conv2d":
        window = given["stride"], given["padding"], given["dilation"]
        first = (given["depthwise_weight"], given["depthwise_bias"], *window)
        x = _convolution(graph, x, *first, _channels(x), given["depthwise_activation"])
        last = given["pointwise_weight"], given["pointwise_bias"]
    elif name == "pointwise_conv2d":
        last = given["weight"], given["bias"]
    else:
        window = given["stride"], given["padding"], given["dilation"]
        groups = given["groups"] if name == "conv2d" else _channels(x)
        return _convolution(graph, x, given["weight"], given["bias"], *window, groups, given["activation"])
    out = _convolution(graph, x, *last, [1, 1], [0, 0, 0, 0], [1, 1], 1, given["activation"])
    return out if given["residual"] is None else _call(graph, aten.add.Tensor, out, given["residual"])


_ACTIVATIONS: dict[str, tuple[Any, ...]] = {
    "relu": (aten.relu.default,),
    "relu6": (aten.hardtanh.default, 0.0, 6.0),
    "silu": (aten.silu.default,),
    "hardswish": (aten.hardswish.default,),
    "gelu": (aten.gelu.default,),
    "gelu_tanh": (aten.gelu.default,),
    "hardsigmoid": (aten.hardsigmoid.default,),
    "sigmoid": (aten.sigmoid.default,),
}


def _convolution(
    graph: Graph,
    x: Node,
    weight: Node,
    bias: Node | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    activation: str | None,
) -> Node:
    if any(padding):
        x = _call(graph, aten.constant_pad_nd.default, x, list(padding), 0.0)
    out = _call(graph, aten.conv2d.default, x, weight, bias, list(stride), [0, 0], list(dilation), groups)
    if activation is None:
        return out
    target, *bounds = _ACTIVATIONS[activation]
    options = {"approximate": "tanh"} if activation == "gelu_tanh" else {}
    return _call(graph, target, out, *bounds, **options)


def _call(graph: Graph, target: Any, *args: Any, **kwargs: Any) -> Node:
    node = graph.call_function(target, args, kwargs)
    node.meta["val"] = target(*(arg.meta["val"] if isinstance(arg, Node) else arg for arg in args), **kwargs)
    return node


def _channels(x: Node) -> int:
    return int(x.meta["val"].shape[1])


def _drop_dropout(graph: Graph) -> None:
    for node in list(graph.nodes):
        if operator(node) in _DROPOUTS and not arguments(node)["train"]:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _slice_splits(graph: Graph) -> None:
    """Parts of a split become slices, which need no tuple between."""
    for node in list(graph.nodes):
        if operator(node) not in ("chunk", "split", "split_with_sizes"):
            continue
        if not all(user.target is python.getitem for user in node.users):
            continue
        given, parts = arguments(node), node.meta["val"]
        dimension = given["dim"] % parts[0].dim()
        lengths = [part.shape[dimension] for part in parts]
        if not all(isinstance(length, int) for length in lengths):
            continue
        for user in list(node.users):
            number = int(user.args[1])
            first = sum(lengths[: number % len(lengths)])
            with graph.inserting_before(user):
                part = graph.call_function(
                    aten.slice.Tensor, (given["self"], dimension, first, first + lengths[number])
                )
            part.meta["val"] = user.meta["val"]
            user.replace_all_uses_with(part)
            graph.erase_node(user)
        graph.erase_node(node)


def _norm_channels(graph: Graph) -> None:
    """A layer norm between two permutations is a norm over the channels of an image."""
    for node in list(graph.nodes):
        if operator(node) != "layer_norm":
            continue
        given = arguments(node)
        before, after = given["input"], sole_user(node)
        affine = given["weight"], given["bias"]
        if not all(isinstance(part, Node) and part.op == "get_attr" for part in affine) or after is None:
            continue
        if (
            not _permutes(before, [0, 2, 3, 1])
            or not _permutes(after, [0, 3, 1, 2])
            or len(before.users) != 1
        ):
            continue
        if len(given["normalized_shape"]) != 1:
            continue
        with graph.inserting_before(after):
            normal = graph.call_function(channel_norm, (before.args[0], *affine, given["eps"]))
        normal.meta["val"] = after.meta["val"]
        after.replace_all_uses_with(normal)
        for part in (after, node, before):
            graph.erase_node(part)


def _permutes(node: Any, order: list[int]) -> bool:
    return isinstance(node, Node) and operator(node) == "permute" and list(arguments(node)["dims"]) == order


def _rebind(graph: Graph) -> None:
    position = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        functional = _functional(node)
        before = node.args[0] if functional is not None else None
        if not isinstance(before, Node) or not _owned(before):
            continue
        earlier = [user for user in before.users if position[user] < position[node]]
        if not all(_fresh(user) for user in earlier):
            continue  # a view taken before the change would have to see it
        node.meta[_IN_PLACE] = node.target
        node.target = functional

        def comes_later(user: Node, here: Node = node) -> bool:
            return position[user] > position[here]

        before.replace_all_uses_with(node, delete_user_cb=comes_later)


def _functional(node: Node) -> Any:
    """The functional twin of an in-place call, if there is one that gives the same dtype."""
    name = operator(node)
    if not writes(node) or not name.endswith("_") or name[:-1] not in FRESH:
        return None
    overload = node.target._overloadname  # type: ignore[union-attr]
    twin = getattr(getattr(aten, name[:-1], None), overload, None)
    dtypes = {found.dtype for arg in node.all_input_nodes if (found := value(arg)) is not None}
    return twin if len(dtypes) == 1 else None


def _fresh(node: Node) -> bool:
    return operator(node) in FRESH and not writes(node)


def _owned(node: Node) -> bool:
    """Whether nothing else sees the memory of a value: it is fresh, or the only view of what is."""
    if _fresh(node):
        return True
    inner = node.args[0] if is_view(node) and node.args else None
    return isinstance(inner, Node) and len(inner.users) == 1 and not writes(node) and _owned(inner)


def _protect_changed_views(graph: Graph) -> None:
    """Where a view is written to, let it be a view of what has the strides it was traced with."""
    roots = {root_of(node.args[0]) for node in graph.nodes if writes(node)}
    for root in roots:
        traced = value(root)
        if root.op != "call_function" or traced is None or not traced.is_contiguous():
            continue
        with graph.inserting_after(root):
            dense = graph.call_function(aten.contiguous.default, (root,))
        dense.meta["val"] = traced
        replace_elsewhere(root, dense)


def replace_elsewhere(before: Node, after: Node) -> None:
    """Let all users of `before` but `after` itself use `after`."""
    before.replace_all_uses_with(after, delete_user_cb=lambda user: user is not after)


def root_of(node: Any) -> Node:
    """The value whose memory a view looks at."""
    while isinstance(node, Node) and (is_view(node) or node.target is python.getitem):
        node = node.args[0]
    return node
