"""The graph run in PyTorch, with a look at each block on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from ninefold.inference.match import Block

Visit = Callable[[Block, list[Tensor], Tensor], None]


def blocks(source: GraphModule, found: Iterable[Block], inputs: list[Any], visit: Visit) -> None:
    """Run `source` on `inputs`; hand each block, with its operands and its value there, to `visit`."""
    with torch.no_grad():
        _Replay(source, found, visit).run(*copied(inputs))


def copied(inputs: list[Any]) -> list[Any]:
    """The inputs again, safe from a network that writes into them."""
    return [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in inputs]


class _Replay(Interpreter):
    def __init__(self, source: GraphModule, found: Iterable[Block], visit: Visit) -> None:
        super().__init__(source, garbage_collect_values=False)
        self._blocks = {block.tail: block for block in found}
        self._visit = visit

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        block = self._blocks.get(n)
        if block is not None:
            self._visit(block, [self.env[node] for node in block.operands], result)
        return result
