"""Every operator that a network calls on an example, in order: what it is, what it costs, what it moves.

Convolutions of any kind (grouped, dilated, transposed, in one to three dimensions) are counted by
`ninefold.cost`, everything else by `torch.utils.flop_counter`, whose two operations are one multiplication
and one addition. The one exception: PyTorch's table lacks the attention operator of the CPU, so its formula
for the others is used for that too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from . import cost
from .shape import numel

_aten = torch.ops.aten
_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
_ATTENTION = "scaled_dot_product"

# What an operator without multiplications does; the first word that its name holds decides.
_WORDS: dict[str, tuple[str, ...]] = {
    "normalisation": ("norm",),
    "softmax": ("softmax",),
    "pooling": ("pool", "mean", "amax", "max", "upsample", "grid"),
    "activation": (
        *(
            "relu",
            "hardtanh",
            "silu",
            "swish",
            "gelu",
            "sigmoid",
            "tanh",
            "elu",
            "softplus",
            "leaky",
            "clamp",
        ),
        *("erf", "exp"),
    ),
    "sums and products": (
        "add",
        "sub",
        "mul",
        "div",
        "sum",
        "pow",
        "sqrt",
        "neg",
        "abs",
        "lerp",
        "cos",
        "sin",
    ),
    "copies": (
        *("copy", "clone", "contiguous", "cat", "stack", "pad", "index", "roll", "gather", "fill", "empty"),
        *("zeros", "ones", "full", "repeat", "arange", "where", "constant", "embedding", "im2col"),
    ),
}
OTHER = "other"


@dataclass(frozen=True)
class Operator:
    """One call of one of PyTorch's operators on the example.

    `operator` is PyTorch's name (`convolution`, `relu_`); `name` that of its weight, or of the module that
    calls it; `kind` what it is: standard, pointwise, depthwise, grouped or transposed (convolutions), linear,
    matrix product, attention, or a group of those without multiplications (normalisation, activation, ...).
    Shapes hold the batch. `multiplications` are for the whole batch, `parameters` without biases, `bytes`
    those of all operands and results, each read or written once. `layer` is its place in `Census.layers`.
    """

    operator: str
    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    weight_shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    multiplications: int = 0
    parameters: int = 0
    bytes: int = 0
    layer: int | None = None

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Of a convolution; empty for others."""
        return self.weight_shape[2:] if self.operator == "convolution" else ()


def describe(
    function: Any,
    arguments: tuple[Any, ...],
    named: Mapping[str, Any],
    result: Any,
    *,
    weights: Mapping[int, str],
    module: str,
    layer: int | None = None,
) -> Operator:
    """What one call is; `weights` has the parameters' names by their address, `module` is who calls."""
    tensors = list(_tensors((arguments, named)))
    outputs = list(_tensors(result))
    operator = function._overloadpacket.__name__
    weight = _weight(operator, tensors, weights)
    common: dict[str, Any] = {
        "operator": operator,
        "name": module if weight is None else _name(weight, weights, module),
        "input_shape": _shape(_input(operator, tensors)),
        "output_shape": _shape(outputs[0] if outputs else None),
        "bytes": 0 if function.is_view else _bytes(tensors) + _bytes(outputs),
        "layer": layer,
    }
    if function is _aten.convolution.default:
        return Operator(**common, **_convolution(arguments, result))
    return Operator(
        **common,
        kind=kind_of(operator, has_weight=weight is not None),
        multiplications=_multiplications(function, operator, tensors, arguments, named, result),
        parameters=0 if weight is None else weight.numel(),
        weight_shape=_shape(weight),
    )


def _convolution(arguments: tuple[Any, ...], result: torch.Tensor) -> dict[str, Any]:
    x, weight, _, stride, padding, dilation, transposed, _, groups = arguments[:9]
    counted = cost.convolution(
        x.shape[1],
        result.shape[1],
        tuple(weight.shape[2:]),
        tuple(result.shape[2:]),
        groups=groups,
        transposed_from=tuple(x.shape[2:]) if transposed else None,
    )
    depthwise = groups == x.shape[1] and groups > 1
    pointwise = groups == 1 and numel(weight.shape[2:]) == 1
    kind = "depthwise" if depthwise else "pointwise" if pointwise else "grouped" if groups > 1 else "standard"
    return {
        "kind": "transposed" if transposed else kind,
        "multiplications": x.shape[0] * counted.multiplications,
        "parameters": counted.parameters,
        "weight_shape": _shape(weight),
        "stride": tuple(stride),
        "padding": tuple(padding),
        "dilation": tuple(dilation),
        "groups": groups,
    }


def _multiplications(
    function: Any,
    operator: str,
    tensors: list[torch.Tensor],
    arguments: tuple[Any, ...],
    named: Mapping[str, Any],
    result: Any,
) -> int:
    rule = flop_registry.get(function._overloadpacket)
    if rule is not None:
        return int(rule(*arguments, **named, out_val=result)) // 2
    if _ATTENTION in operator:
        return int(sdpa_flop_count(*(tensor.shape for tensor in tensors[:3]))) // 2
    return 0


def kind_of(operator: str, *, has_weight: bool = False) -> str:
    """The kind of an operator by its name; of a convolution its shapes say more."""
    if operator in (*_PRODUCTS, "linear", "matmul"):
        return "linear" if has_weight or operator == "linear" else "matrix product"
    if _ATTENTION in operator:
        return "attention"
    for kind, words in _WORDS.items():
        if any(word in operator for word in words):
            return kind
    return OTHER


def _weight(operator: str, tensors: list[torch.Tensor], weights: Mapping[int, str]) -> torch.Tensor | None:
    if operator == "convolution":
        return tensors[1]
    if operator in _PRODUCTS:
        return next((each for each in tensors[-2:] if each.dim() == 2 and _known(each, weights)), None)
    return None


def _known(weight: torch.Tensor, weights: Mapping[int, str]) -> bool:
    return weight.data_ptr() in weights


def _name(weight: torch.Tensor, weights: Mapping[int, str], module: str) -> str:
    return weights.get(weight.data_ptr(), module).removesuffix(".weight")


def _input(operator: str, tensors: list[torch.Tensor]) -> torch.Tensor | None:
    # addmm and baddbmm: what is added comes first.
    position = 1 if operator in ("addmm", "baddbmm") else 0
    return tensors[position] if len(tensors) > position else None


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    leaves = chain.from_iterable(
        pytree.tree_leaves(part) for part in (tree if isinstance(tree, tuple) else [tree])
    )
    return (leaf for leaf in leaves if isinstance(leaf, torch.Tensor))


def _shape(tensor: torch.Tensor | None) -> tuple[int, ...]:
    return () if tensor is None else tuple(tensor.shape)


def _bytes(tensors: list[torch.Tensor]) -> int:
    distinct = {(each.data_ptr(), each.shape): each.numel() * each.element_size() for each in tensors}
    return sum(distinct.values())
