"""Small questions about the nodes of an exported graph."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch.fx import GraphModule, Node


def operator(node: Node) -> str:
    """Name of the aten operator that a node calls, without its overload: "conv2d"; "" for any other node."""
    target = node.target
    if (
        node.op == "call_function"
        and isinstance(target, torch._ops.OpOverload)
        and target.namespace == "aten"
    ):
        return target._opname
    return ""


def arguments(node: Node) -> dict[str, Any]:
    """Arguments of an operator call by name, defaults filled in."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    names = [argument.name for argument in target._schema.arguments]
    given = {argument.name: argument.default_value for argument in target._schema.arguments}
    return given | dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def writes(node: Node) -> bool:
    """Whether a node changes one of its arguments in place."""
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    return any(
        argument.alias_info is not None and argument.alias_info.is_write
        for argument in target._schema.arguments
    )


def is_view(node: Node) -> bool:
    """Whether a node's result may be a view of its first argument, by the operator's schema."""
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    return any(value.alias_info is not None for value in target._schema.returns)


def sole_user(node: Node) -> Node | None:
    """The one node that uses a value, or None if there are none or several."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def attribute(module: GraphModule, target: Any) -> Any:
    """What a get_attr or call_module node names."""
    return reduce(getattr, str(target).split("."), module)


def value(node: Any) -> torch.Tensor | None:
    """The traced tensor (fake: shape, dtype, device) of a node, or None."""
    traced = node.meta.get("val") if isinstance(node, Node) else None
    return traced if isinstance(traced, torch.Tensor) else None


class FreeSize(int):
    """A size that may be another one at the next call: the example's number, equal to no number.

    It equals a size of the same symbolic expression, and lies below what no size reaches: the end of a slice
    that takes everything.
    """

    expression: Any

    def __new__(cls, size: torch.SymInt) -> FreeSize:  # noqa: D102
        free = super().__new__(cls, size.node.hint)
        free.expression = size.node.expr
        return free

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FreeSize) and bool(self.expression == other.expression)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __le__(self, other: int) -> bool:
        return self == other or int(other) == torch.iinfo(torch.int64).max

    __hash__ = int.__hash__


def sizes(tensor: torch.Tensor) -> tuple[int, ...]:
    """Shape of a traced tensor; a symbolic size has the example's number."""
    return tuple(
        size if isinstance(size, int) else int(size) if size.node.expr.is_number else FreeSize(size)
        for size in tensor.shape
    )
