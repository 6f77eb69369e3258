from __future__ import annotations

import pytest
import torch
from torch import nn

from ninefold import census


def _separable(channels: int, outputs: int, *between: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        *between,
        nn.Conv2d(channels, outputs, 1, bias=False),
    )


def test_pair_counts_by_the_definitions() -> None:
    counted = census.take(
        _separable(8, 24, nn.BatchNorm2d(8), nn.ReLU6(inplace=True)), (torch.zeros(1, 8, 10, 10),)
    )
    assert [layer.kind for layer in counted.layers] == ["depthwise", "pointwise"]
    assert [layer.name for layer in counted.layers] == ["0", "3"]
    assert counted.multiplications == 8 * 10 * 10 * (9 + 24) == counted.separable_multiplications
    assert counted.parameters == 8 * (9 + 24)
    assert counted.standard_multiplications == 24 * 10 * 10 * 9 * 8
    assert counted.standard_parameters == 24 * 9 * 8


def test_a_gate_between_the_stages_keeps_the_pair() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
            self.squeeze = nn.Conv2d(8, 8, 1)
            self.pointwise = nn.Conv2d(8, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.depthwise(x)
            return self.pointwise(x * self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid())

    counted = census.take(Gated(), (torch.zeros(1, 8, 9, 9),))
    assert [(a.name, b.name) for a, b in counted.pairs] == [("depthwise", "pointwise")]


def test_functional_calls_and_linear_layers_are_counted() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.zeros(6, 3, 3, 3))
            self.head = nn.Linear(6, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(nn.functional.conv2d(x, self.kernel, stride=2).mean((2, 3)))

    counted = census.take(Functional(), (torch.zeros(2, 3, 9, 9),))
    assert [(layer.name, layer.kind) for layer in counted.layers] == [
        ("kernel", "standard"),
        ("head", "linear"),
    ]
    assert counted.multiplications == 2 * (6 * 4 * 4 * 27 + 30)
    assert counted.parameters == 6 * 27 + 30
    assert counted.standard_multiplications == counted.multiplications


def test_a_weight_used_twice_has_its_parameters_once() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    counted = census.take(nn.Sequential(shared, nn.ReLU(), shared), (torch.zeros(1, 4, 5, 5),))
    assert counted.parameters == 4 * 4 * 9
    assert counted.multiplications == 2 * 4 * 4 * 9 * 25


def test_two_pointwise_on_one_depthwise_make_one_pair() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
            self.left, self.right = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.depthwise(x)
            return self.left(x) + self.right(x)

    counted = census.take(Fork(), (torch.zeros(1, 4, 5, 5),))
    assert [(a.name, b.name) for a, b in counted.pairs] == [("depthwise", "left")]


def test_a_resize_between_the_stages_breaks_the_pair() -> None:
    counted = census.take(_separable(4, 4, nn.MaxPool2d(2)), (torch.zeros(1, 4, 8, 8),))
    assert counted.pairs == ()
    assert counted.standard_multiplications == counted.multiplications


def test_what_is_not_a_plain_2d_convolution_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.ConvTranspose2d(2, 2, 3))
    assert census.take(model, (torch.zeros(1, 2, 6, 6),)).uncounted == ("1",)


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    census.take(model, (torch.randn(1, 2, 6, 6),))
    assert model.training and model[0].training and not model[1].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_bad_arguments_are_named() -> None:
    with pytest.raises(TypeError, match=r"`model` must be an nn\.Module, got str"):
        census.take("resnet", ())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`example_inputs` must be a tuple, got Tensor"):
        census.take(nn.Identity(), torch.zeros(1))  # type: ignore[arg-type]
