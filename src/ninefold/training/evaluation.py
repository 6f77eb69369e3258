"""A compiled graph where no gradient is wanted: kernels where blocks were found, the rest in PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from ninefold.inference import match, plan, rewrite
from ninefold.inference.fold import pack
from ninefold.ops import backend
from ninefold.training.capture import Captured, Unsupported
from ninefold.training.weights import Packed

# Sizes that were checked are forgotten when there are more of them.
_MOST_SIZES = 4096


class Evaluation:
    """Runs a graph for the inputs that Dynamo passes: weights, sizes and images in one flat list.

    At each new size the first result is compared with PyTorch's; a size at which they disagree is PyTorch's
    from then on, with a warning. What there was no memory for is raised, and tried again at the next call.
    Raises Unsupported if there is nothing to gain.
    """

    def __init__(self, original: Callable[..., Any], captured: Captured) -> None:
        self._original, self._source = original, captured.source
        self._names, self._positions = list(captured.weights), list(captured.weights.values())
        self._numbers = captured.numbers
        found = match.find(captured.source)
        self.blocks, self.left = found.blocks, tuple(found.left.values())
        self._code: Callable[..., Any] | None = None
        self._agrees: dict[tuple[int, ...], bool] = {}
        self._weights = Packed(self._pack, captured.statistics)
        self._attach([None] * len(self._names))
        if not self.blocks:
            raise Unsupported(next(iter(self.left), "it has no convolution"))
        rewrite.reshape_views(captured.source.graph)

    def __str__(self) -> str:
        convolutions = sum(len(block.stages) for block in self.blocks)
        told = f"{convolutions} convolutions run as {len(self.blocks)} kernels"
        return told + "".join(f"; one in PyTorch: {reason}" for reason in self.left)

    def run(self, *inputs: Any) -> Any:
        """Run the graph; the results have PyTorch's strides."""
        if _wants_pytorch(inputs):
            return self._original(*inputs)
        kernels = self._weights.find([inputs[position] for position in self._positions])
        if kernels is None:
            return self._original(*inputs)
        sizes = tuple(inputs[position] for position in self._numbers)
        agrees = self._agrees.get(sizes)
        if agrees is None:
            return self._checked(kernels, sizes, inputs)
        assert self._code is not None
        return self._code(kernels, *inputs) if agrees else self._original(*inputs)

    def _checked(self, kernels: SimpleNamespace, sizes: tuple[int, ...], inputs: tuple[Any, ...]) -> Any:
        wanted = self._original(*inputs)
        assert self._code is not None
        why = ""
        try:
            got = self._code(kernels, *inputs)
        except Exception as error:
            if plan.out_of_memory(error):
                raise
            why = f"{type(error).__name__}: {error}"
        else:
            if len(got) != len(wanted) or not all(map(_close, got, wanted)):
                why = "its kernels disagreed with PyTorch"
        if why:
            warnings.warn(f"torch.compile: a graph runs in PyTorch: {why}", RuntimeWarning, stacklevel=2)
        if len(self._agrees) >= _MOST_SIZES:
            self._agrees.clear()
        self._agrees[sizes] = not why
        # The kernels' own result from the first call on: a resumed run validates for the first time again,
        # and would differ in the last bits from one that was not stopped.
        return wanted if why else got

    def _pack(self, weights: list[Tensor]) -> SimpleNamespace:
        with torch.inference_mode(False), torch.no_grad():
            self._attach([weight.detach() for weight in weights])
            kernels = {block: pack(self._source, block) for block in self.blocks}
            graph, root, _ = plan.assemble(self._source, kernels, joined=True)
            if self._code is None:
                self._code = type(GraphModule(root, graph)).forward
            # The code stays: written again for each set of weights, it would pile up.
            self._attach([None] * len(self._names))
            return SimpleNamespace(**root)

    def _attach(self, weights: list[Any]) -> None:
        for name, weight in zip(self._names, weights, strict=True):
            setattr(self._source, name, weight)


def _wants_pytorch(inputs: tuple[Any, ...]) -> bool:
    """What no guard of Dynamo's speaks of, or what is too dear to be wrong about."""
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
        return True
    first = next(x for x in inputs if isinstance(x, Tensor))
    return (
        torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_dispatch_stack() > 0
        or backend.taken_apart(first)
    )


def _close(got: Any, wanted: Any) -> bool:
    return plan.close(got, wanted) if isinstance(wanted, Tensor) else bool(got == wanted)
