"""What `convert` is asked, refused before any work where it cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ninefold.conversion import emphasis
from ninefold.conversion.calibrate import needed_bytes
from ninefold.conversion.factors import ORDERS, Order
from ninefold.conversion.survey import Site
from ninefold.shape import integer


def orders(order: str) -> tuple[Order, ...]:
    """The orders to try for `order`."""
    if order not in (*ORDERS, "best"):
        raise ValueError(f"`order` must be 'depthwise', 'pointwise' or 'best', got {order!r}")
    return ORDERS if order == "best" else tuple(each for each in ORDERS if each == order)


def check(model: nn.Module, terms: int | None, budget: float | None, passes: int) -> None:
    """Refuse what needs no look into the network."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
    if terms is not None:
        integer("terms", terms)
        if budget is not None:
            raise ValueError(f"`terms` and `budget` exclude each other, got {terms} and {budget}")
    if budget is not None:
        if isinstance(budget, bool) or not isinstance(budget, float | int | Fraction):
            raise TypeError(f"`budget` must be a number, got {budget!r}")
        if not 0 < budget <= 1:
            raise ValueError(f"`budget` must be above 0 and at most 1, got {budget}")
    if isinstance(passes, bool) or not isinstance(passes, int) or passes < 0:
        raise ValueError(f"`passes` must be a whole number of at least 0, got {passes!r}")


def inputs_of(example_inputs: Any) -> tuple[Any, ...]:
    """The network's positional inputs, at least one of them a tensor."""
    inputs = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(inputs)):
        kind = type(example_inputs).__name__
        raise TypeError(f"`example_inputs` must be a tensor or a tuple of inputs, got {kind}")
    return inputs


def check_sites(model: nn.Module, sites: Sequence[Site]) -> None:
    """Refuse a network without a layer to convert, and weights that are not finite."""
    if all(site.why_not for site in sites):
        reasons = "; ".join(f"{site.name}: {site.why_not}" for site in sites[:3])
        more = f" and {len(sites) - 3} more" if len(sites) > 3 else ""
        found = f"{reasons}{more}" if sites else "it calls no Conv2d"
        raise ValueError(f"`model` must have a convolution to convert, got none ({found})")
    for site in sites:
        weight = model.get_submodule(site.name).weight
        if not site.why_not and not bool(torch.isfinite(weight).all()):  # type: ignore[arg-type]
            raise ValueError(f"`model` must have finite weights, got NaN or infinity in {site.name}")


def check_memory(sites: Sequence[Site], terms: int | None, memory: int, images: int) -> int:
    """The bytes that calibration will hold at most; under a budget any number of terms may be tried."""
    needs: Mapping[str, int] = {
        site.name: needed_bytes(site, terms or max(site.full.values()))
        + emphasis.needed_bytes(site, sites, images)
        for site in sites
        if not site.why_not
    }
    name = max(needs, key=lambda each: needs[each])
    if needs[name] > memory:
        rule = f"`memory` must be at least {needs[name]:,} bytes, which calibrating {name} takes"
        raise ValueError(f"{rule}, got {memory:,}; or leave that layer out of `layers`")
    return needs[name]
