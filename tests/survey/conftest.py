from __future__ import annotations

import pytest
import torch
from torch import nn

from ninefold import measure
from ninefold.reporting import data

LIMITS = measure.Limits(
    1, 100.0, (measure.Bandwidth("L2", 1 << 19, 100.0), measure.Bandwidth("DRAM", 1 << 27, 10.0)), "a guess"
)


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring a machine takes seconds, and has tests of its own."""
    monkeypatch.setattr(measure, "limits", lambda threads: LIMITS)


def separable(channels: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
        nn.Conv2d(channels, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class Small(nn.Module):
    """A stem, a separable pair, a transposed convolution that stays in PyTorch, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.pair = nn.Sequential(*separable(16, 32))
        self.up = nn.ConvTranspose2d(32, 8, 2, stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.up(self.pair(self.stem(x).relu())).mean((2, 3)))


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(1, 3, 32, 32)


@pytest.fixture
def machine() -> data.Machine:
    bandwidths = (data.Bandwidth("L2", 1 << 19, 100.0), data.Bandwidth("DRAM", 1 << 27, 10.0))
    return data.Machine("A Processor", 1, "avx2", 100.0, bandwidths, "a guess", (("torch", "2.13.0"),))
