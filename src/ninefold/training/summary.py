"""What became of a model's convolutions where gradients are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn
from torch.__future__ import get_swap_module_params_on_conversion
from torch.utils.weak import WeakIdKeyDictionary


@dataclass(frozen=True)
class Report:
    """A graph's chains, each by the names of its convolutions, and those left to PyTorch: name → why."""

    chains: tuple[tuple[str, ...], ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        inside = sum(map(len, self.chains))
        lines = [
            f"{inside} of {inside + len(self.left)} convolutions train in {len(self.chains)} fused chains"
        ]
        lines += [f"  fused    {' + '.join(chain)}" for chain in self.chains]
        lines += [f"  PyTorch  {name}: {why}" for name, why in self.left.items()]
        return "\n".join(lines)


class Reporting(Protocol):
    """A compiled graph that can say what became of its convolutions."""

    def report(self) -> Report:
        """What became of them so far."""


# Weight → the graphs that took it.
_graphs: Any = WeakIdKeyDictionary()


def remember(weight: Tensor, graph: Reporting) -> None:
    """Note that a graph ran with a weight."""
    if not get_swap_module_params_on_conversion():  # PyTorch swaps no tensor that has a weak reference
        _graphs.setdefault(weight, []).append(graph)


def summary(model: nn.Module) -> str:
    """Which convolutions of a model train in fused chains, which in PyTorch and why: one part for each graph.

    A graph is compiled at the first call with gradients, and again when Dynamo's guards say so. Raises
    TypeError for what is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be an nn.Module, got {type(model).__name__}")
    graphs = [graph for weight in model.parameters() for graph in _graphs.get(weight, ())]
    reports = dict.fromkeys(str(graph.report()) for graph in graphs)
    return "\n\n".join(reports) or "no graph of this model has been compiled for training yet"
