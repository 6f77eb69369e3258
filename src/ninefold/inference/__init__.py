"""`for_inference`: a frozen copy of a network whose separable blocks run in fused kernels.

capture (`torch.export`) → rewrite → match → fold and pack → plan, checked against the original.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ninefold.inference.result import InferenceModel
from ninefold.inference.summary import Layer

__all__ = ["InferenceModel", "Layer", "for_inference"]


def for_inference(model: nn.Module, example_inputs: Any, tune: bool = False) -> InferenceModel:
    """Return a frozen copy of `model` that computes the same, faster; `model` itself is not touched.

    `example_inputs` is the model's input, or a tuple of its positional inputs (tensors, or containers of
    them); batch 1 will do. Other batches and image sizes work afterwards; another size is captured again,
    once, which takes seconds. The copy is in eval mode. What is not recognised runs in PyTorch unchanged, and
    `summary()` says why. Which stages run fused is estimated from this machine's caches; `tune=True` measures
    each form of each block instead, and remembers the times in `$XDG_CACHE_HOME/ninefold/tune.json`.

    Raises TypeError for a model that is not a `torch.nn.Module` or examples without a tensor, and what the
    model itself raises for the examples.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, InferenceModel):
        raise TypeError("`model` must be an original model, got one that `for_inference` returned")
    if not isinstance(tune, bool):
        raise TypeError(f"`tune` must be a bool, got {tune!r}")
    inputs = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    if not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(inputs)):
        raise TypeError(
            f"`example_inputs` must be a tensor or a tuple of inputs, got {type(example_inputs).__name__}"
        )
    with torch.inference_mode(False):
        frozen = copy.deepcopy(model).eval()
    return InferenceModel(frozen, inputs, tune=tune)
