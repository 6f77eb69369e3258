"""What stands between kernels joins them into one call, and the call computes what the network does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import ninefold
from ninefold.inference.graph import operator
from ninefold.inference.plan import close
from ninefold.ops.sequence import Sequence

X = torch.randn(2, 8, 13, 9)


def conv(c: int, n: int, k: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(c, n, k, padding=k // 2, **options)


class Ghost(nn.Module):
    """GhostNet's way: some channels made from others, cut to size, a shortcut added in place."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.cheap = conv(8, 6), conv(6, 6, 3, groups=6)

    def forward(self, x: Tensor) -> Tensor:
        first = self.main(x).relu()
        out = torch.cat([first, self.cheap(first)], 1)[:, :8, :, :]
        out += x
        return out


class ConvNeXt(nn.Module):
    """A norm over channels between permutations, an expansion, a learnt scale, a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = conv(8, 8, 7, groups=8), nn.LayerNorm(8)
        self.up, self.down = conv(8, 32), conv(32, 8)
        self.gamma = nn.Parameter(torch.randn(8))
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.down(functional.gelu(self.up(out))) * self.gamma.reshape(1, -1, 1, 1)


class SqueezeExcite(nn.Module):
    def __init__(self, mean: str) -> None:
        super().__init__()
        self.first, self.squeeze, self.excite = conv(8, 8, 3, groups=8), conv(8, 4), conv(4, 8)
        self.mean = {
            "keepdim": lambda x: x.mean((2, 3), keepdim=True),
            "pool": lambda x: functional.adaptive_avg_pool2d(x, 1),
        }[mean]

    def forward(self, x: Tensor) -> Tensor:
        out = functional.silu(self.first(x))
        return out * self.excite(self.squeeze(self.mean(out)).relu()).sigmoid()


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = conv(8, 12, 3), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(functional.hardswish(self.conv(x)).mean((2, 3)).relu())


NETWORKS = [Ghost(), ConvNeXt(), SqueezeExcite("keepdim"), SqueezeExcite("pool"), Classifier()]


def stretches(fast: ninefold.inference.InferenceModel) -> list[Sequence]:
    (made,) = fast._plans.values()
    return [child for child in made.run.children() if isinstance(child, Sequence)]


@pytest.mark.parametrize("model", NETWORKS, ids=lambda model: type(model).__name__)
def test_a_network_of_known_parts_is_one_call(isa, model):
    model = model.eval()
    fast = ninefold.for_inference(model, X[:1])
    assert len(stretches(fast)) == 1
    (made,) = fast._plans.values()
    assert [operator(node) for node in made.run.graph.nodes if operator(node)] == ["contiguous"]
    for batch in (X[:1], X, X[:, :, :, :1], X[:0]):
        with torch.no_grad():
            wanted = model(batch)
        assert close(fast(batch), wanted)


class Interrupted(nn.Module):
    """PyTorch has a word in the middle, and what stands before it is used again after it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(8, 8), conv(8, 8, 3), conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        first = self.a(x).relu() * 1
        second = self.b(first)
        return self.c(torch.sin(second)) + first.sigmoid() + second


def test_what_leaves_one_stretch_enters_the_next(isa):
    model = Interrupted().eval()
    fast = ninefold.for_inference(model, X)
    assert close(fast(X), model(X).detach())


class Written(nn.Module):
    """A view is written to, and what it views is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(8, 8), conv(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        out = self.a(x)
        part = out[:, :4]
        part += 1.0
        return self.b(out) + out


def test_a_view_that_is_written_to_changes_what_it_views(isa):
    model = Written().eval()
    fast = ninefold.for_inference(model, X)
    assert close(fast(X), model(X).detach())


def test_a_scale_that_the_network_changes_is_not_folded(isa):
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = conv(8, 8)
            self.register_buffer("scale", torch.ones(1, 8, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) * (self.scale + x.mean())

    model = Counting().eval()
    fast = ninefold.for_inference(model, X)
    assert close(fast(X), model(X).detach())
