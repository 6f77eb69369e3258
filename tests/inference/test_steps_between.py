"""What stands between convolutions and runs in the same call: pooling, shuffles, splits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ninefold
from ninefold.inference.graph import arguments, operator


class Between(nn.Module):
    def __init__(self, between: nn.Module, channels: int = 8) -> None:
        super().__init__()
        self.first, self.between, self.last = (
            nn.Conv2d(3, 8, 3, padding=1),
            between,
            nn.Conv2d(channels, 4, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.between(self.first(x).relu()))


class Shuffle(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.size()
        x = x.view(batch, 4, channels // 4, height, width)
        return torch.transpose(x, 1, 2).contiguous().view(batch, channels, height, width)


class Split(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, 1)
        small, rest = right.split((1, 3), dim=1)
        return torch.cat([rest, left.relu(), small], 1)


BETWEEN = {
    "largest": nn.MaxPool2d(3, 2, 1),
    "largest, rounded up": nn.MaxPool2d((2, 3), ceil_mode=True),
    "average": nn.AvgPool2d(2, 2, count_include_pad=False, ceil_mode=True),
    "shuffle": Shuffle(),
    "split": Split(),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_it_is_part_of_the_call(name: str) -> None:
    model = Between(BETWEEN[name]).eval()
    fast = ninefold.for_inference(model, torch.randn(1, 3, 11, 9))
    for batch in (1, 3):
        x = torch.randn(batch, 3, 11, 9)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
    (plan,) = fast._plans.values()
    assert plan.whole is not None


def test_a_shuffle_of_something_else_is_left_alone() -> None:
    class Other(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            batch, channels, height, width = x.size()
            x = x.view(batch, 4, channels // 4, height, width).transpose(2, 1)
            return x.reshape(batch, channels, width, height)

    model, x = Between(Other()).eval(), torch.randn(2, 3, 6, 5)
    fast = ninefold.for_inference(model, x)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", [1, "same"])
@pytest.mark.parametrize("times", [2, 3])
def test_a_depth_multiplier_is_copies_within_the_call(times: int, padding: int | str) -> None:
    wide = nn.Conv2d(8, 8 * times, 3, padding=padding, groups=8)
    model = Between(wide, 8 * times).eval()
    fast = ninefold.for_inference(model, torch.randn(1, 3, 11, 9))
    for batch in (1, 3):
        x = torch.randn(batch, 3, 11, 9)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
    (plan,) = fast._plans.values()
    assert plan.whole is not None
    convolutions = [node for node in plan.captured.graph.graph.nodes if operator(node) == "conv2d"]
    groups = [arguments(node)["groups"] for node in convolutions]
    assert groups == [1, 8 * times, 1]


def test_a_part_that_is_written_to_keeps_its_meaning() -> None:
    class Written(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = x.chunk(2, 1)
            left.mul_(2.0)
            return torch.cat([right, x[:, :4]], 1)

    model, x = Between(Written()).eval(), torch.randn(2, 3, 6, 5)
    fast = ninefold.for_inference(model, x)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
