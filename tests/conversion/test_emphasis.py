"""The fit to what matters: its error falls with every pass, and what the network ignores is free."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ninefold import convert
from ninefold.conversion import emphasis
from ninefold.conversion.batches import Batches
from ninefold.conversion.calibrate import best, gather
from ninefold.conversion.survey import survey


class Ignoring(nn.Module):
    """Two convolutions, and an answer that depends on half of the second one's channels alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 8, 3), nn.Conv2d(8, 6, 3)
        self.answer = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self.second(self.first(x).relu())[:, :3].relu_().mean((2, 3)))


def weighted(model: Ignoring, weight: Tensor, bias: Tensor, x: Tensor) -> float:
    """The error by its definition: each output counts by its squared gradient over their mean, at most 1."""
    with torch.no_grad():
        y = model.second(model.first(x).relu())
        z = nn.functional.conv2d(model.first(x).relu(), weight, bias)
    y.requires_grad_(True)
    answers = model.answer(y[:, :3].relu().mean((2, 3)))
    chance = torch.Generator().manual_seed(0)
    slopes = torch.autograd.grad((answers * torch.randn(answers.shape, generator=chance)).sum(), y)[
        0
    ].square()
    return float(((slopes / slopes.mean()).clamp(max=1) * (y - z).square()).sum())


@pytest.mark.parametrize("kept", [1 << 30, 0])
def test_the_weighted_error_falls_with_every_pass(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not there is room to keep the gradients."""
    monkeypatch.setattr(emphasis, "_KEPT_BYTES", kept)
    model, x = Ignoring().eval(), torch.randn(40, 2, 10, 10)
    batches = Batches([x], (x[:1],))
    site = survey(model, (x[:1],))[1]
    moments = gather(model, model, site, batches, seed=0)
    start, _ = best(model.second, 1, ["depthwise"], moments)
    errors = []
    for passes in range(5):
        factors, bias = emphasis.emphasise(
            *(start, moments, model, model, site, batches),
            passes=passes,
            images=40,
            seed=0,
        )
        weight = factors.weight().reshape(model.second.weight.shape).float()
        errors.append(weighted(model, weight, bias.float(), x))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.8 * errors[0]


def test_it_brings_the_answers_closer_and_leaves_no_trace() -> None:
    model, x = Ignoring().eval(), torch.randn(60, 2, 10, 10)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    wrong = []
    for passes in (0, 5):
        made = convert(model, x[:1], x, 1, passes=passes).model
        wrong.append(float((made(x) - model(x)).square().mean()))
    assert wrong[1] < 0.8 * wrong[0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_some_images_at_a_time_are_as_good_as_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Ignoring().eval(), torch.randn(7, 2, 10, 10)
    monkeypatch.setattr(torch, "randn", lambda shape, generator: torch.ones(shape))
    whole, parts = (
        emphasis._gradients(model, model.second, (x,), images, torch.Generator().manual_seed(3))
        for images in (7, 3)
    )
    assert whole is not None and parts is not None
    for one, other in zip((*whole[0], *whole[1]), (*parts[0], *parts[1]), strict=True):
        torch.testing.assert_close(one, other)


def test_a_network_without_gradients_is_fitted_to_its_activations() -> None:
    class Choosing(Ignoring):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).argmax(1)

    model, x = Choosing().eval(), torch.randn(20, 2, 10, 10)
    results = [convert(model, x[:1], x, 1, passes=passes).model for passes in (0, 5)]
    for one, other in zip(*(result.parameters() for result in results), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("passes", [-1, 1.5, True])
def test_passes_that_cannot_be(passes: object) -> None:
    x = torch.randn(2, 2, 10, 10)
    with pytest.raises(ValueError, match=f"`passes` must be a whole number of at least 0, got {passes}"):
        convert(Ignoring(), x, x, passes=passes)  # type: ignore[arg-type]
