"""A block's kernel, with its weights: batch-norm folded in, denormal numbers flushed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ninefold.inference.graph import arguments, attribute
from ninefold.inference.match import Block, Stage, constant_scale
from ninefold.ops import packed


def pack(source: GraphModule, block: Block) -> nn.Module:
    """Make the kernel that does a block, labelled with the block's name."""
    kernel = _kernel(source, block)
    kernel.label = block.name
    return kernel


def _kernel(source: GraphModule, block: Block) -> packed.Packed:
    if len(block.stages) == 1:
        return _single(source, block.stages[0])
    if not block.stages[0].is_depthwise:
        return packed.Inverted(*(_single(source, stage) for stage in block.stages))
    first, last = block.stages
    shape = first.shape
    weight, bias = weights(source, first)
    last_weight, last_bias = weights(source, last)
    return packed.Separable(
        weight,
        last_weight,
        bias,
        last_bias,
        stride=shape.stride,
        padding=shape.padding,
        dilation=shape.dilation,
        multiplier=shape.multiplier,
        depthwise_activation=first.activation,
        activation=last.activation,
    )


def _single(source: GraphModule, stage: Stage) -> packed.Conv2d:
    weight, bias = weights(source, stage)
    return packed.Conv2d(
        weight,
        bias,
        stride=stage.shape.stride,
        padding=stage.shape.padding,
        dilation=stage.shape.dilation,
        groups=stage.shape.groups,
        activation=stage.activation,
        winograd=True,
    )


def weights(module: GraphModule, stage: Stage) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias with every norm and scale of the stage folded in, in float64, then rounded.

    scale = γ / √(σ² + ε); weight' = weight · scale; bias' = (bias - μ) · scale + β.
    """
    weight = attribute(module, stage.weight).detach().double()
    bias = None if stage.bias is None else attribute(module, stage.bias).detach().double()
    for norm in stage.norms:
        factor = constant_scale(module, norm, stage.shape.out_channels)
        if factor is not None:
            weight = weight * factor.double()[:, None, None, None]
            bias = None if bias is None else bias * factor.double()
            continue
        given = arguments(norm)
        mean, variance = _tensor(module, given["running_mean"]), _tensor(module, given["running_var"])
        scale = (variance + given["eps"]).rsqrt()
        if given["weight"] is not None:
            scale = scale * _tensor(module, given["weight"])
        weight = weight * scale[:, None, None, None]
        bias = -mean * scale if bias is None else (bias - mean) * scale
        if given["bias"] is not None:
            bias = bias + _tensor(module, given["bias"])
    dtype = attribute(module, stage.weight).dtype
    return _rounded(weight, dtype), None if bias is None else _rounded(bias, dtype)


def _tensor(module: GraphModule, node: Any) -> Tensor:
    tensor: Tensor = attribute(module, node.target)
    return tensor.detach().double()


def _rounded(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    # One denormal weight makes every multiplication with it some forty times slower on a CPU.
    rounded = tensor.to(dtype)
    return torch.where(rounded.abs() < torch.finfo(dtype).tiny, 0.0, rounded)
