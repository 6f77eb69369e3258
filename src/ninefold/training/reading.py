"""What the nodes of Dynamo's graph call: PyTorch's functions and methods, each in several spellings."""

from __future__ import annotations

import inspect
import operator as python
from ast import literal_eval
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import Node

from ninefold.inference.match import activation_called


@dataclass(frozen=True)
class Call:
    """A function by the name of its aten operator, its arguments by name, defaults filled in."""

    name: str
    given: dict[str, Any]


_CONVOLUTION = "input weight bias=None stride=1 padding=0 dilation=1 groups=1"
_IN_PLACE = "input inplace=False"
_NORM = "input running_mean running_var weight=None bias=None training=False momentum=0.1 eps=1e-05"
_NATIVE_NORM = "input weight bias running_mean running_var training momentum eps cudnn_enabled"

# What is called → the operator's name and the parameters. A string is a method's name.
_SPELLINGS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("conv2d", _CONVOLUTION, (torch.conv2d, F.conv2d)),
    ("batch_norm", _NORM, (F.batch_norm,)),
    ("batch_norm", _NATIVE_NORM, (torch.batch_norm,)),
    ("pad", "input pad mode='constant' value=None", (F.pad, torch._C._nn.pad)),
    ("add", "input other", (python.add, python.iadd, "add_")),
    ("add", "input other alpha=1", (torch.add, "add")),
    ("mul", "input other", (python.mul, torch.mul, "mul")),
    ("relu", _IN_PLACE, (F.relu,)),
    ("relu", "input", (torch.relu, torch.relu_, F.relu_, "relu", "relu_")),
    ("relu6", _IN_PLACE, (F.relu6,)),
    ("hardtanh", "input min_val=-1.0 max_val=1.0 inplace=False", (F.hardtanh,)),
    ("hardtanh", "input min_val=-1.0 max_val=1.0", (F.hardtanh_,)),
    ("clamp", "input min=None max=None", (torch.clamp, torch.clamp_, torch.clip, "clamp", "clamp_", "clip")),
    ("silu", _IN_PLACE, (F.silu,)),
    ("hardswish", _IN_PLACE, (F.hardswish,)),
    ("hardsigmoid", _IN_PLACE, (F.hardsigmoid,)),
    ("gelu", "input approximate='none'", (F.gelu, torch._C._nn.gelu)),
    ("sigmoid", "input", (torch.sigmoid, torch.sigmoid_, F.sigmoid, "sigmoid", "sigmoid_")),
]
_MISSING = object()


def _parameters(text: str) -> dict[str, Any]:
    pairs = [parameter.partition("=") for parameter in text.split()]
    return {name: literal_eval(default) if equals else _MISSING for name, equals, default in pairs}


_BY_TARGET: dict[Any, tuple[str, dict[str, Any]]] = {
    target: (name, _parameters(text)) for name, text, targets in _SPELLINGS for target in targets
}
# These change their first argument; so do methods and functions that end in "_", and `inplace=True`.
_IN_PLACE_OPERATORS = frozenset(
    {
        *(python.iadd, python.isub, python.imul, python.imatmul, python.itruediv, python.ifloordiv),
        *(python.imod, python.ipow, python.iand, python.ior, python.ixor, python.ilshift, python.irshift),
        *(python.setitem, python.delitem),
    }
)


def read(node: Node) -> Call | None:
    """What a node calls, or None for what is not in the table or is called in a way of its own."""
    if node.op not in ("call_function", "call_method"):
        return None
    known = _BY_TARGET.get(node.target) if _is_hashable(node.target) else None
    if known is None:
        return None
    name, parameters = known
    if len(node.args) > len(parameters) or not set(node.kwargs) <= set(parameters):
        return None
    given = parameters | dict(zip(parameters, node.args, strict=False)) | dict(node.kwargs)
    return None if _MISSING in given.values() else Call(name, given)


def activation(call: Call) -> str | None:
    """The activation that a call computes, by its name in `ninefold.ops`, or None."""
    return activation_called(call.name, call.given)


def writes(node: Node) -> bool:
    """Whether a node may change a tensor in place, by what it is called; running statistics do not count."""
    if node.op not in ("call_function", "call_method"):
        return False
    target: Any = node.target
    if target in _IN_PLACE_OPERATORS or node.kwargs.get("out") is not None:
        return True
    place = _place_of_inplace(target)
    flag = node.args[place] if place is not None and place < len(node.args) else node.kwargs.get("inplace")
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return flag not in (None, False) or (name.endswith("_") and not name.endswith("__"))


def is_plain(node: Node) -> bool:
    """Whether a node computes and does nothing else: no mode is entered, no graph called, nothing written."""
    if node.op in ("placeholder", "get_attr"):
        return True
    if node.op not in ("call_function", "call_method") or writes(node):
        return False
    target: Any = node.target
    if isinstance(target, str):
        return not target.startswith("_")
    if isinstance(target, torch._ops.HigherOrderOperator) or target.__name__.startswith("_"):
        return False
    return (getattr(target, "__module__", None) or "").split(".")[0] in (
        "torch",
        "_operator",
        "math",
        "builtins",
    )


@cache
def _place_of_inplace(target: Callable[..., Any]) -> int | None:
    """Where a function takes its `inplace`, if it does."""
    try:
        return list(inspect.signature(target).parameters).index("inplace")
    except (TypeError, ValueError):
        return None


def _is_hashable(target: Any) -> bool:
    return isinstance(target, str) or callable(target)
