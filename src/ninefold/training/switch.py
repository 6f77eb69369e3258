"""`for_training` and `restore`: a model that trains in the kernels, in place."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from torch._dynamo import external_utils, trace_rules
from torch._dynamo.exc import TorchRuntimeError

from ninefold.inference.result import InferenceModel
from ninefold.ops import backend, passes
from ninefold.training import compiler


def for_training(model: nn.Module, activations: str | None = None, *, graphs: bool = False) -> nn.Module:
    """Let a model train in Ninefold's kernels from now on, and return it: same modules, same state_dict.

    It is `model.compile(backend="ninefold")`: the first call of each kind compiles, which takes seconds.
    `activations` is the dtype in which images are kept for the backward pass: None (as they are) or
    "bfloat16", which halves their memory and costs accuracy. With `graphs` a GPU's steps are recorded at the
    third call with images of one shape and replayed from then on as CUDA graphs, which spares the processor
    a thousand launches a step; what cannot be recorded runs as without, and so does everything on a CPU. A
    replayed step is differentiated once: a second time raises RuntimeError.

    On a CPU the memory of a step's images is kept for the next, until `restore` is called or the model goes.

    `ninefold.training.summary(model)` says what became of each convolution, `ninefold.restore(model)` undoes
    it. Copies and pickles are plain models. Raises TypeError for what is no module or no bool, ValueError for
    another dtype and for a frozen network.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be an nn.Module, got {type(model).__name__}")
    if isinstance(model, InferenceModel):
        raise ValueError("`model` must be the original, got the frozen copy that for_inference made of it")
    asked: dict[str, Any] = {"activations": activations, "graphs": graphs}
    compiler.check_options(asked)
    options = {key: value for key, value in asked.items() if value} or None
    run = model._call_impl
    # As torch.compile(model) does: Dynamo skips frames of torch.nn's own files, `Sequential.forward` for one.
    if trace_rules.check(model.forward):
        run = external_utils.wrap_inline(run)
    compiled = torch.compile(run, backend=compiler.backend, options=options)

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except TorchRuntimeError:
            # What fails while Dynamo traces fails in PyTorch too, with an error that the caller may expect.
            return model._call_impl(*args, **kwargs)

    model._compiled_call_impl = call
    if backend.kernels():
        weakref.finalize(model, passes.release_images).atexit = False
    return model


def restore(model: nn.Module) -> nn.Module:
    """Let a model run in PyTorch again, as before `for_training`, and return it.

    The memory of images that training keeps between steps goes back to the system.
    Raises TypeError for what is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be an nn.Module, got {type(model).__name__}")
    model.__dict__.pop("_compiled_call_impl", None)
    if backend.kernels():
        passes.release_images()
    return model
