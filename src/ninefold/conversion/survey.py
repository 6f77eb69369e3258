"""Which convolutions a network runs, and which of them can be converted; for the others, why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from ninefold.census import in_eval
from ninefold.conversion.factors import Order, full_terms
from ninefold.shape import ConvShape, numel


@dataclass(frozen=True)
class Site:
    """One Conv2d: its name, its shape for one image, how often a forward pass calls it, and why it must stay.

    `why_not` is empty where it can be converted. Shapes are those of the example, with batch 1.
    """

    name: str
    shape: ConvShape
    calls: int
    why_not: str

    @property
    def full(self) -> dict[Order, int]:
        """Terms that are exact, for each order."""
        taps, groups = numel(self.shape.kernel_size), self.shape.groups
        outputs, inputs = self.shape.out_channels // groups, self.shape.in_channels // groups
        return {
            "depthwise": full_terms(outputs, inputs, taps, first="depthwise"),
            "pointwise": full_terms(outputs, inputs, taps, first="pointwise"),
        }

    @property
    def multiplications(self) -> int:
        """As it is, for one image, all calls."""
        return self.shape.multiplications * self.calls

    def stages(self, terms: int, first: Order) -> tuple[ConvShape, ConvShape]:
        """The two convolutions that `terms` terms make of it, in the order they run."""
        shape = self.shape
        terms = min(terms, self.full[first])
        point = replace(shape, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), kernel_size=(1, 1))
        if first == "depthwise":
            wide = shape.in_channels * terms
            filtering = replace(shape, out_channels=wide, groups=shape.in_channels)
            return filtering, replace(point, in_channels=wide, input_size=shape.output_size)
        wide = shape.out_channels * terms
        filtering = replace(shape, in_channels=wide, groups=shape.out_channels)
        return replace(point, out_channels=wide), filtering

    def converted_multiplications(self, terms: int, first: Order) -> int:
        """As `terms` separable terms, for one image, all calls."""
        return sum(stage.multiplications for stage in self.stages(terms, first)) * self.calls

    def converted_parameters(self, terms: int, first: Order) -> int:
        """Weights of `terms` separable terms."""
        return sum(stage.parameters for stage in self.stages(terms, first))

    def ratio(self, terms: int, first: Order) -> Fraction:
        """Multiplications, converted / as it is: K(1/N + 1/Dk²) with depthwise first and one group."""
        return Fraction(self.converted_multiplications(terms, first), self.multiplications)


def survey(model: nn.Module, inputs: tuple[Any, ...], *, layers: Sequence[str] | None = None) -> list[Site]:
    """Run `model` on `inputs` and list its Conv2d layers in the order of their first call.

    Without `layers` the first convolution stays; with them only those can be converted, and naming one that
    cannot be is a ValueError.
    """
    seen: dict[str, list[ConvShape]] = {}
    names = {module: name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        assert isinstance(module, nn.Conv2d)
        if args and isinstance(args[0], Tensor) and args[0].dim() == 4:
            shape = shape_of(module, args[0].shape)
            seen.setdefault(names[module], []).append(replace(shape, batch=1))

    handles = [module.register_forward_hook(note) for module in names]
    try:
        with in_eval(model), torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    _check_names(layers, {name: name in seen for name in names.values()})
    modules = {name: module for module, name in names.items()}
    sites = []
    for position, (name, shapes) in enumerate(seen.items()):
        why_not = _why_not(modules[name], shapes)
        if not why_not and layers is None and position == 0:
            why_not = "the first layer stays"
        if layers is not None:
            if name in layers and why_not:
                raise ValueError(f"`layers` must name layers that can be converted, got {name!r}: {why_not}")
            why_not = why_not or ("" if name in layers else "not asked for")
        sites.append(Site(name, shapes[0], len(shapes), why_not))
    return sites


def shape_of(module: nn.Conv2d, x_shape: Sequence[int]) -> ConvShape:
    """The shape of a call of `module` with an input of `x_shape`."""
    return ConvShape.standard(
        tuple(x_shape),
        tuple(module.weight.shape),
        stride=module.stride,
        padding=tuple(module._reversed_padding_repeated_twice),
        dilation=module.dilation,
        groups=module.groups,
    )


def _why_not(module: nn.Conv2d, shapes: list[ConvShape]) -> str:
    shape = shapes[0]
    if numel(shape.kernel_size) == 1:
        return "it is pointwise already"
    if shape.channels_per_group == 1:
        return "it is depthwise already"
    own = type(module).forward is nn.Conv2d.forward and type(module)._conv_forward is nn.Conv2d._conv_forward
    if not own:
        return f"{type(module).__name__} computes in a way of its own"
    if hasattr(module, "parametrizations") or module._forward_pre_hooks or module._forward_hooks:
        return "its weights or calls are changed by hooks"
    if not module.weight.is_floating_point():
        return f"its weights are {module.weight.dtype}"
    if any(each.input_size != shape.input_size for each in shapes):
        return "it is called with images of different sizes"
    return ""


def _check_names(layers: Sequence[str] | None, called: dict[str, bool]) -> None:
    for name in layers or ():
        if not called.get(name, False):
            state = "which is never called" if name in called else "which is not there"
            known = ", ".join(each for each, there in called.items() if there)
            raise ValueError(f"`layers` must be among the Conv2d layers {known}, got {name!r}, {state}")
