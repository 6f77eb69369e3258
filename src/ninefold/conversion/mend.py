"""Batch-norm statistics taken again, after the layers before them have changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ninefold.conversion.batches import Batches


def norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch-norm layers that keep running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


def reestimate(model: nn.Module, batches: Batches) -> None:
    """Replace the running statistics of every batch-norm of `model` by the means over `batches`.

    Only the batch-norms run in training mode; modes and momentum are left as they were.
    """
    layers = norms(model)
    before = [(layer.training, layer.momentum) for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.train()
            layer.momentum = None
        with torch.no_grad():
            for inputs in batches:
                model(*inputs)
    finally:
        for layer, (training, momentum) in zip(layers, before, strict=True):
            layer.training, layer.momentum = training, momentum


def output_error(model: nn.Module, original: nn.Module, batches: Batches) -> float:
    """Mean square difference of the first outputs, as a share of the original's mean square."""
    difference = scale = 0.0
    with torch.no_grad():
        for inputs in batches:
            got, wanted = first_tensor(model(*inputs)).double(), first_tensor(original(*inputs)).double()
            difference += float((got - wanted).square().sum())
            scale += float(wanted.square().sum())
    return difference / max(scale, 1e-300)


def first_tensor(output: Any) -> Tensor:
    """The first tensor in what a network returns."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output
