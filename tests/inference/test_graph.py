from __future__ import annotations

import torch
from torch import nn

from ninefold.inference.capture import capture
from ninefold.inference.graph import FreeSize, sizes


class FirstTwo(nn.Module):
    """Takes as many images as the network was captured with."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(self.block(x))[:2].mean((2, 3), keepdim=True)


def test_a_slice_as_long_as_the_examples_batch_is_no_slice_of_everything(freeze):
    freeze(FirstTwo(), torch.randn(2, 8, 9, 9), batches=(3, 1))


def test_a_free_size_equals_its_own_expression_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())
    captured = capture(net, (torch.randn(2, 3, 2, 2),))
    image, out = _ends(captured.graph)
    batch, *others = sizes(image)
    assert isinstance(batch, FreeSize)
    assert batch == sizes(out)[0]
    assert batch != 2 and 2 not in (batch,)
    assert others == [3, 2, 2]
    assert batch + 1 == 3
    assert batch <= 2**63 - 1 and not batch <= 2


def _ends(graph: torch.fx.GraphModule) -> tuple[torch.Tensor, torch.Tensor]:
    nodes = list(graph.graph.nodes)
    first = next(node for node in nodes if node.op == "placeholder")
    return first.meta["val"], nodes[-1].args[0][0].meta["val"]
