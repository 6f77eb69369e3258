"""Separable terms as PyTorch's own layers, put into a network in place of a standard convolution."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ninefold.conversion.factors import Factors, Order


@dataclass(frozen=True)
class Choice:
    """What becomes of a convolution: how many terms, and which stage runs first."""

    first: Order
    terms: int


def separable(convolution: nn.Conv2d, choice: Choice, *, bias: bool) -> nn.Sequential:
    """Two Conv2d layers, `depthwise` and `pointwise` in the order they run, with weights not set.

    Dtype, device, mode and whether gradients are wanted are the convolution's. With pointwise first and K
    terms the depthwise layer is grouped: it filters K images for each output channel and adds them.
    """
    convolution_is = {"dtype": convolution.weight.dtype, "device": convolution.weight.device}
    kernel = {
        "kernel_size": convolution.kernel_size,
        "stride": convolution.stride,
        "padding": convolution.padding,
        "dilation": convolution.dilation,
        "padding_mode": convolution.padding_mode,
        **convolution_is,
    }
    inputs, outputs, groups = convolution.in_channels, convolution.out_channels, convolution.groups
    if choice.first == "depthwise":
        wide = inputs * choice.terms
        stages = [
            ("depthwise", _unset(inputs, wide, groups=inputs, bias=False, **kernel)),
            ("pointwise", _unset(wide, outputs, kernel_size=1, groups=groups, bias=bias, **convolution_is)),
        ]
    else:
        wide = outputs * choice.terms
        stages = [
            ("pointwise", _unset(inputs, wide, kernel_size=1, groups=groups, bias=False, **convolution_is)),
            ("depthwise", _unset(wide, outputs, groups=outputs, bias=bias, **kernel)),
        ]
    made = nn.Sequential(OrderedDict(stages)).train(convolution.training)
    return made.requires_grad_(convolution.weight.requires_grad)


def fill(made: nn.Sequential, factors: Factors, bias: Tensor | None) -> nn.Sequential:
    """Set the weights of what `separable` made; `bias` (N,) belongs to the last stage."""
    depthwise, pointwise = made.get_submodule("depthwise"), made.get_submodule("pointwise")
    last = made[-1]
    assert (
        isinstance(depthwise, nn.Conv2d) and isinstance(pointwise, nn.Conv2d) and isinstance(last, nn.Conv2d)
    )
    with torch.no_grad():
        depthwise.weight.copy_(factors.filters.reshape(depthwise.weight.shape))
        pointwise.weight.copy_(factors.mixing.reshape(pointwise.weight.shape))
        if bias is not None and last.bias is not None:
            last.bias.copy_(bias)
    return made


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` wherever `model` has the layer called `name`, which may be under several names."""
    old = model.get_submodule(name)
    for parent in list(model.modules()):
        for key, child in list(parent._modules.items()):
            if child is old:
                parent._modules[key] = layer


def _unset(*args: int, **kwargs: object) -> nn.Conv2d:
    return nn.utils.skip_init(nn.Conv2d, *args, **kwargs)
