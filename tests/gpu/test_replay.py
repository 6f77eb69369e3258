"""Steps replayed as CUDA graphs, on a GPU: the same losses, statistics and weights as without."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ninefold
from ninefold.training import replay


def network() -> nn.Module:
    torch.manual_seed(3)
    torch._dynamo.reset()
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True)),
        *(nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True)),
        *(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    ).cuda()


def steps(model: nn.Module, images: list[torch.Tensor], *, autocast: bool) -> list[float]:
    """The loss of a step on each batch."""
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    labels = torch.arange(len(images[0]), device="cuda") % 10
    losses = []
    for x in images:
        optimiser.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return [loss.item() for loss in losses]


@pytest.mark.parametrize("autocast", [False, True])
def test_replayed_steps_are_the_steps(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    replays = []
    forward = replay.Recording.forward

    def counted(self: replay.Recording, *given: object) -> object:
        replays.append(self)
        return forward(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(replay.Recording, "forward", counted)
    images = [torch.randn(16, 3, 32, 32, device="cuda") for _ in range(8)]
    plain = network()
    other = copy.deepcopy(plain)
    ninefold.for_training(plain)
    ninefold.for_training(other, graphs=True)
    theirs, ours = steps(plain, images, autocast=autocast), steps(other, images, autocast=autocast)
    assert ours == pytest.approx(theirs, rel=2e-2 if autocast else 1e-4)
    assert len(replays) == 6  # from the third call on
    for (name, mine), right in zip(other.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, right, rtol=0.05, atol=0.02 if autocast else 1e-4, msg=name)
