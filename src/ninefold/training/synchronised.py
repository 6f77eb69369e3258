"""Batch-norm over several processes on a CPU, where PyTorch's SyncBatchNorm refuses to run.

Every `batch_norm` that a model calls in training mode takes its mean and variance over the batches of all
processes, whatever the class of the module that calls it: mean first, then the squared distances from it, two
sums over the processes each way, differentiated by PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def synchronise(model: nn.Module, group: Any = None) -> nn.Module:
    """Let a model's batch-norms use the statistics of all processes of `group`, in place; return the model.

    The model runs in PyTorch, not in fused chains, which have no place to wait for others. `SyncBatchNorm`
    layers must not be converted before. `ninefold.restore(model)` undoes it. Raises TypeError for what is no
    module, ValueError where there is no process group.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be an nn.Module, got {type(model).__name__}")
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "`model` must be trained by several processes, got no process group: init_process_group"
        )

    def call(*args: Any, **named: Any) -> Any:
        with _Synchronised(group):
            return model._call_impl(*args, **named)

    model._compiled_call_impl = torch.compiler.disable(call)
    return model


class _Synchronised(TorchFunctionMode):
    def __init__(self, group: Any) -> None:
        super().__init__()
        self._group = group

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        others = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        count = input.new_tensor([float(input.numel() // input.shape[1])])
        total = _sum(torch.cat([input.sum(others), count]), self._group)
        count, mean = total[-1], total[:-1] / total[-1]
        if count < 2:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {tuple(input.shape)}"
            )
        centred = input - mean.view(shape)
        variance = _sum(centred.square().sum(others), self._group) / count
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.detach(), momentum)
                running_var.lerp_(variance.detach() * (count / (count - 1)), momentum)
        out = centred * torch.rsqrt(variance + eps).view(shape)
        if weight is not None:
            out = out * weight.view(shape)
        return out if bias is None else out + bias.view(shape)


def _sum(numbers: Tensor, group: Any) -> Tensor:
    summed: Tensor = all_reduce(numbers, group=group or dist.group.WORLD)
    return summed
