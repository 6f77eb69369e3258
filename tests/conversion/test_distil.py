"""Distillation: what it minimises, what it leaves alone, what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ninefold import convert
from ninefold.conversion import distil, singular_values_alone
from ninefold.conversion.distil import soft_labels


@pytest.fixture
def teacher() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten()
    )
    return model.append(nn.Linear(8 * 16, 3)).eval()


def test_soft_labels_are_the_divergence_at_a_temperature() -> None:
    got, wanted = torch.randn(5, 4), torch.randn(5, 4)
    p, q = torch.softmax(wanted / 3, 1), torch.softmax(got / 3, 1)
    assert float(soft_labels(got, wanted, 3.0)) == pytest.approx(9 * float((p * (p / q).log()).sum(1).mean()))
    assert float(soft_labels(wanted, wanted, 3.0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("features", [0.0, 1.0])
def test_the_student_comes_closer_and_the_teacher_stays(teacher: nn.Module, features: float) -> None:
    x = torch.randn(64, 2, 8, 8)
    student = convert(teacher, x, terms=1).model
    before, closer = copy.deepcopy(teacher.state_dict()), copy.deepcopy(student)
    losses = distil(
        closer, teacher, x.split(16), epochs=12, layers=["3"], features=features, learning_rate=5e-3
    )
    assert len(losses) == 12 and losses[-1] < 0.8 * losses[0]
    with torch.no_grad():
        wanted = teacher(x)
        assert (closer(x) - wanted).square().mean() < 0.5 * (student(x) - wanted).square().mean()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not closer.training and not any(module._forward_hooks for module in closer.modules())


def test_the_training_kernels_learn_the_same(teacher: nn.Module) -> None:
    x = torch.randn(32, 2, 8, 8)
    student = convert(teacher, x, x, 2).model
    losses = [
        distil(copy.deepcopy(student), teacher, x.split(16), epochs=2, layers=["3"], fused=fused)
        for fused in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_singular_values_alone_are_what_convert_makes_without_data(teacher: nn.Module) -> None:
    x = torch.randn(16, 2, 8, 8)
    fitted = convert(teacher, x, x, 2)
    alone, plain = singular_values_alone(fitted, teacher), convert(teacher, x, None, 2).model
    assert torch.allclose(alone(x), plain(x))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"epochs": 0}, "`epochs` must be positive, got 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive, got 0.0"),
        ({"temperature": float("inf")}, "`temperature` must be positive, got inf"),
        ({"features": -1.0}, "`features` must be non-negative, got -1.0"),
        ({"data": []}, "`data` must yield at least one image, got none"),
        ({"data": [torch.full((2, 2, 8, 8), float("nan"))]}, "the loss must be finite, got nan in epoch 1"),
    ],
)
def test_what_cannot_be_is_refused(teacher: nn.Module, arguments: dict, words: str) -> None:
    student = convert(teacher, torch.randn(1, 2, 8, 8)).model
    data = arguments.pop("data", [torch.randn(2, 2, 8, 8)])
    with pytest.raises(ValueError, match=words):
        distil(student, teacher, data, **{"epochs": 1, **arguments})
