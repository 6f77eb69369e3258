"""What Dynamo calls with each graph: who will compute it, decided once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ninefold.ops import backend as kernels
from ninefold.training.capture import Unsupported, capture
from ninefold.training.evaluation import Evaluation

_log = logging.getLogger("ninefold")

Run = Callable[..., Any]


def backend(graph: GraphModule, example_inputs: list[Any]) -> Run:
    """Return what computes `graph` from now on; Dynamo guards grad mode, shapes, dtypes and devices.

    Raises nothing for a graph that it does not understand: that one runs in PyTorch.
    """
    try:
        reason = _wants_pytorch(example_inputs)
        if reason:
            raise Unsupported(reason)
        with torch.inference_mode(False), torch.no_grad():
            evaluation = Evaluation(graph.forward, capture(graph, example_inputs))
    except Unsupported as unsupported:
        _log.info("torch.compile: a graph runs in PyTorch: %s", unsupported)
        return graph.forward
    except Exception:
        _log.warning("torch.compile: a graph runs in PyTorch, because reading it failed", exc_info=True)
        return graph.forward
    _log.info("torch.compile: %s", evaluation)
    return evaluation.run


def _wants_pytorch(inputs: list[Any]) -> str:
    """Why a graph with these inputs is PyTorch's, whatever it computes; "" if it is not."""
    tensors = [leaf for leaf in inputs if isinstance(leaf, Tensor)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "gradients are wanted"
    if any(torch.is_autocast_enabled(device) for device in {tensor.device.type for tensor in tensors}):
        return "autocast is on"
    for tensor in tensors:
        if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
            return f"an input is a {type(tensor).__name__}"
        if tensor.layout is not torch.strided or tensor.is_neg() or tensor.is_conj():
            return "an input is no plain strided tensor"
    if kernels.kernels() is None:
        return "the compiled kernels are not installed"
    return ""
