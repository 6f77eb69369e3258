"""`torch.compile(model, backend="ninefold")` and `for_training`: fused kernels, the weights the model's own.

Where gradients are wanted, chains of convolution → batch-norm → activation run as one differentiable function
each, which saves little and computes the rest again in the backward pass (`chain.py`); running statistics,
hooks, checkpoints and everything else stay PyTorch's. `summary(model)` names what does not run so, and why.

Where none are wanted (`torch.no_grad`, `torch.inference_mode`, nothing that requires them), convolutions with
their batch-norm, activation and residual run as `for_inference` runs them, from packed copies of the weights
that are made again when a weight changed. A change is seen by the weight's version counter and its address:
`load_state_dict`, an optimiser's step and every edit in place count; one through `parameter.data` does not
until something bumps the counter. What is not recognised, other dtypes and devices, and autocast run in
PyTorch unchanged; the logger "ninefold" says what became of a graph.

Importing this room registers the backend, where no installed package has done so.
"""

from __future__ import annotations

import torch._dynamo

from ninefold.training.compiler import backend
from ninefold.training.summary import summary
from ninefold.training.switch import for_training, restore
from ninefold.training.synchronised import synchronise

__all__ = ["backend", "for_training", "restore", "summary", "synchronise"]

if "ninefold" not in torch._dynamo.list_backends(exclude_tags=()):
    torch._dynamo.register_backend(backend, name="ninefold")
