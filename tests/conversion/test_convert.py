"""`convert` as a whole: what it keeps of a trained network, and what it reports."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ninefold
from ninefold import census, convert


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        right = [model(x).argmax(1) == y for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return float(torch.cat(right).double().mean())


def small(**kwargs: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 12, 3, padding=1, bias=False, **kwargs),
        nn.BatchNorm2d(12),
        nn.ReLU(inplace=True),
        nn.Conv2d(12, 16, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()


# --- the digit network: 500 images to calibrate on, 2,000 others to test -------------------------


def test_the_digit_network_is_the_trained_one(
    digit_network: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    assert accuracy(digit_network, *(part[500:2500] for part in digits)) > 0.995


@pytest.mark.parametrize(("terms", "least"), [(1, 0.98), (2, 0.99)])
def test_one_shot_keeps_what_the_digit_network_learnt(
    digit_network: nn.Module, digits: tuple[Tensor, Tensor], terms: int, least: float
) -> None:
    images, labels = digits
    result = convert(digit_network, images[:1], images[:500], terms)
    assert [layer.terms for layer in result.layers] == [None, terms, terms]
    assert accuracy(result.model, images[500:2500], labels[500:2500]) >= least


def test_singular_values_alone_ruin_the_digit_network(
    digit_network: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    images, labels = digits
    result = convert(digit_network, images[:1])
    assert accuracy(result.model, images[500:1500], labels[500:1500]) < 0.5


def test_a_budget_is_kept_and_used(digit_network: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    result = convert(digit_network, images[:1], images[:100], budget=0.3)
    assert Fraction(1, 5) < result.ratio <= Fraction(3, 10)
    assert accuracy(result.model, images[500:1500], labels[500:1500]) > 0.97


# --- what is reported ----------------------------------------------------------------------------


def test_the_layers_say_what_was_counted() -> None:
    model, x = small(), torch.randn(2, 3, 16, 16)
    result = convert(model, x, terms=2)
    first, second, third = result.layers
    assert (first.converted, first.why) == (False, "the first layer stays")
    assert first.multiplications == (8 * 3 * 9 * 256,) * 2
    assert second.multiplications == (12 * 8 * 9 * 256, 2 * 8 * (9 + 12) * 256)
    assert second.parameters == (12 * 8 * 9, 2 * 8 * (9 + 12))
    assert second.ratio == 2 * (Fraction(1, 12) + Fraction(1, 9))
    assert third.multiplications == (16 * 12 * 9 * 49, 2 * 12 * (9 + 16) * 49)
    counted = census.take(result.model, (x[:1],))
    assert result.multiplications[1] == sum(
        layer.shape.multiplications for layer in counted.layers if layer.kind != "linear"
    )
    assert "3  2 terms, depthwise first" in result.summary()


def test_pointwise_first_combines_at_the_input_resolution() -> None:
    layer = nn.Sequential(nn.Conv2d(6, 4, 3, stride=2, padding=1))
    result = convert(layer, torch.randn(1, 6, 8, 8), terms=2, order="pointwise", layers=["0"])
    assert result.layers[0].multiplications == (4 * 6 * 9 * 16, 8 * 6 * 64 + 8 * 9 * 16)
    assert list(dict(result.model[0].named_children())) == ["pointwise", "depthwise"]


def test_the_model_is_not_touched_and_the_copy_is_plain_pytorch() -> None:
    model, x = small().train(), torch.randn(8, 3, 16, 16)
    model[3].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    result = convert(model, x, x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    kinds = {type(module) for module in result.model.modules() if not list(module.children())}
    assert all(kind.__module__.startswith("torch.nn") for kind in kinds)
    assert all(module.training for module in result.model.modules())
    assert (
        not result.model[3].depthwise.weight.requires_grad and result.model[6].pointwise.weight.requires_grad
    )
    ninefold.for_inference(result.model.eval(), x)


def test_calibration_makes_biases_and_mends_batch_norm_only_where_it_helps() -> None:
    model, x = small(), torch.randn(64, 3, 16, 16)
    with torch.no_grad():
        model.train()(x)
        model.eval()
    result = convert(model, x[:1], x, 1)
    assert result.model[3].pointwise.bias is not None
    assert len(result.notes) == 1 and "output error" in result.notes[0]
    assert 0 < result.layers[1].error < 1 and result.layers[1].calibrated


def test_a_layer_called_twice_is_fitted_to_both_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.conv = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.same = self.conv

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).relu_()
            return self.same(self.conv(x).relu_())

    model, x = Twice().eval(), torch.randn(16, 3, 10, 10)
    result = convert(model, x, x, 9)
    assert result.model.same is result.model.conv
    assert [layer.name for layer in result.layers] == ["first", "conv"]
    assert result.layers[1].multiplications[0] == 2 * 6 * 6 * 9 * 100
    with torch.no_grad():
        assert torch.allclose(result.model(x), model(x), atol=1e-3)


def test_what_cannot_be_converted_stays_and_says_why() -> None:
    class Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, groups=4),
        Own(4, 4, 3),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)),
        nn.Conv2d(4, 4, 3),
    )
    why = [layer.why for layer in convert(model, torch.randn(1, 3, 20, 20)).layers]
    assert why == [
        "the first layer stays",
        "it is pointwise already",
        "it is depthwise already",
        "Own computes in a way of its own",
        "its weights or calls are changed by hooks",
        "",
    ]


def test_unasked_one_term_goes_where_it_pays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1, 3), nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3))
    x = torch.randn(1, 3, 12, 12)
    unasked, asked = convert(model, x), convert(model, x, terms=1)
    assert [layer.why for layer in unasked.layers[1:]] == [
        "one term saves nothing",
        "it is depthwise already",
        "",
    ]
    assert asked.layers[1].converted and asked.layers[1].ratio == 1 + Fraction(1, 9)


def test_the_better_order_is_taken_in_each_layer() -> None:
    wide = torch.randn(6, 1, 1, 1) * torch.randn(1, 8, 3, 3)  # one filter for each input channel
    tall = torch.randn(6, 6, 1, 1) * torch.randn(6, 1, 3, 3)  # one filter for each output channel
    model = nn.Sequential(nn.Conv2d(8, 6, 3), nn.Conv2d(6, 6, 3))
    with torch.no_grad():
        model[0].weight.copy_(wide)
        model[1].weight.copy_(tall)
    result = convert(model, torch.randn(1, 8, 12, 12), order="best", layers=["0", "1"])
    assert [layer.first for layer in result.layers] == ["depthwise", "pointwise"]
    assert all(layer.error < 1e-9 for layer in result.layers)


def test_progress_says_the_memory_beforehand() -> None:
    said: list[str] = []
    x = torch.randn(4, 3, 12, 12)
    convert(small(), x, x, progress=lambda text, share: said.append(text))
    assert said[0].startswith("calibration will hold at most ") and said[1] == "converting 3"
