"""One chain at work inside a graph: in kernels where they reach; it updates the running statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ninefold.ops import backend
from ninefold.training import chain, plain
from ninefold.training.stages import Stage, Tensors

# Shapes whose answer is remembered are forgotten when there are more of them.
_MOST_SHAPES = 1024


class Fused(nn.Module):
    """Stands in a graph for the nodes of a chain. Holds no tensors: they come with each call."""

    def __init__(self, stages: tuple[Stage, ...], keep: str) -> None:
        super().__init__()
        self.stages, self.keep = stages, keep
        self._reasons: dict[Any, str] = {}

    def forward(
        self, x: Tensor, tensors: Sequence[Tensors], momenta: Sequence[float], residual: Tensor | None = None
    ) -> Tensor:
        """Return the chain's result, channels-last where kernels ran, and update the running statistics."""
        if _taken_apart(x):
            return plain.run(x, self.stages, tensors, momenta, residual)
        given, added = (x, tensors), residual
        if torch.is_autocast_enabled(x.device.type):
            given = _cast(x, tensors)
            # A residual of another dtype makes the sum one of that: added by itself, as PyTorch adds it.
            added = residual if residual is not None and residual.dtype is given[0].dtype else None
        if self._reason(*given):
            return plain.run(x, self.stages, tensors, momenta, residual)
        out, _ = chain.run(given[0], self.stages, given[1], added, keep=self.keep, momenta=momenta)
        if residual is not None and added is None:
            out = out + residual
        return out

    @property
    def reason(self) -> str:
        """Why the chain ran in PyTorch at a shape it met, or ""."""
        return next(filter(None, self._reasons.values()), "")

    def _reason(self, x: Tensor, tensors: Sequence[Tensors]) -> str:
        key = x.shape, x.stride(), x.dtype, x.device
        known = self._reasons.get(key)
        if known is None:
            if len(self._reasons) >= _MOST_SHAPES:
                self._reasons.clear()
            # PyTorch has the words for a batch whose variance is that of one number.
            alone = min(chain.values_per_channel(x, self.stages, tensors)) <= 1
            known = "one value per channel" if alone else chain.supported(x, self.stages, tensors)
            self._reasons[key] = known
        return known


def _taken_apart(x: Tensor) -> bool:
    """Whether someone looks at the single operators: the CPU's autocast, `torch.func`, a dispatch mode."""
    return (
        (torch.is_autocast_enabled("cpu") and not backend.on_gpu(x))
        or torch._C._len_torch_dispatch_stack() > 0
        or backend.taken_apart(x)
    )


def _cast(x: Tensor, tensors: Sequence[Tensors]) -> tuple[Tensor, list[Tensors]]:
    """Images and weights as autocast gives them to a convolution; batch-norm's numbers stay as they are."""
    dtype = torch.get_autocast_dtype(x.device.type)

    def cast(tensor: Any) -> Any:
        return tensor if tensor is None else tensor.to(dtype)

    return cast(x), [(cast(weight), cast(bias), *norm) for weight, bias, *norm in tensors]
