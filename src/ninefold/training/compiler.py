"""What Dynamo calls with each graph: who will compute it, decided once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from ninefold.ops import backend as kernels
from ninefold.training import checkpoints
from ninefold.training.capture import Unsupported, capture
from ninefold.training.evaluation import Evaluation
from ninefold.training.learning import Learning
from ninefold.training.replay import Replayed

_log = logging.getLogger("ninefold")

Run = Callable[..., Any]
KEPT = ("float32", "bfloat16")


def backend(
    graph: GraphModule, example_inputs: list[Any], *, options: Mapping[str, Any] | None = None, **_: Any
) -> Run:
    """Return what computes `graph` from now on; Dynamo guards grad mode, shapes, dtypes and devices.

    `options`: "activations" is what is kept for the backward pass, "float32" or "bfloat16"; "graphs" whether
    steps on a GPU are replayed as CUDA graphs. Raises ValueError for another; nothing for a graph that it
    does not understand: that one runs in PyTorch.
    """
    keep, graphs = check_options(options)
    run: Run = graph.forward
    try:
        refused = _wants_pytorch(example_inputs)
        # On a GPU chains serve both ways: without gradients batch-norm's running statistics are folded in.
        if gradients_wanted(example_inputs) or on_gpu(example_inputs):
            learning = Learning(graph, example_inputs, keep, refused=refused)
            _log.info("torch.compile: %s", learning.report())
            replays = graphs and on_gpu(example_inputs) and gradients_wanted(example_inputs)
            return Replayed(learning.run) if replays else learning.run
        run = checkpoints.restored(graph)
        if refused:
            raise Unsupported(refused)
        with torch.inference_mode(False), torch.no_grad():
            evaluation = Evaluation(run, capture(graph, example_inputs))
    except Unsupported as unsupported:
        _log.info("torch.compile: a graph runs in PyTorch: %s", unsupported)
        return run
    except Exception:
        _log.warning("torch.compile: a graph runs in PyTorch, because reading it failed", exc_info=True)
        return run
    _log.info("torch.compile: %s", evaluation)
    return evaluation.run


def check_options(options: Mapping[str, Any] | None) -> tuple[str, bool]:
    """What is kept for the backward pass, and whether steps are replayed.

    Raises ValueError or TypeError for what there is not.
    """
    options = dict(options or {})
    keep, graphs = options.pop("activations", None), options.pop("graphs", False)
    if options:
        raise ValueError(
            f"`options` must have no other keys than 'activations' and 'graphs', got {sorted(options)}"
        )
    if not (keep is None or isinstance(keep, str)):
        raise TypeError(f"`activations` must be None or a string, got {type(keep).__name__}")
    if keep not in (None, *KEPT):
        raise ValueError(f"`activations` must be None, 'float32' or 'bfloat16', got {keep!r}")
    if not isinstance(graphs, bool):
        raise TypeError(f"`graphs` must be True or False, got {type(graphs).__name__}")
    return keep or "float32", graphs


def gradients_wanted(inputs: Sequence[Any]) -> bool:
    """Whether PyTorch would record what is computed from these."""
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs)


def on_gpu(inputs: Sequence[Any]) -> bool:
    """Whether a graph's images are a GPU's: whether any floating-point input is."""
    return any(isinstance(x, Tensor) and x.is_floating_point() and kernels.on_gpu(x) for x in inputs)


def _wants_pytorch(inputs: list[Any]) -> str:
    """Why a graph with these inputs is PyTorch's, whatever it computes; "" if it is not."""
    tensors = [leaf for leaf in inputs if isinstance(leaf, Tensor)]
    gpu = on_gpu(inputs)
    elsewhere = {tensor.device.type for tensor in tensors if not (gpu and kernels.on_gpu(tensor))}
    if any(torch.is_autocast_enabled(device) for device in elsewhere):
        return "autocast is on"
    for tensor in tensors:
        if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
            return f"an input is a {type(tensor).__name__}"
        if tensor.layout is not torch.strided or tensor.is_neg() or tensor.is_conj():
            return "an input is no plain strided tensor"
    if gpu:
        return "" if kernels.triton_kernels() is not None else "Triton is not installed"
    return "" if kernels.kernels() is not None else "the compiled kernels are not installed"
