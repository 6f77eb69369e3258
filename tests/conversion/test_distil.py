"""Distillation: what it minimises, what it leaves alone, what it refuses."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from ninefold import convert
from ninefold.conversion import distil, singular_values_alone
from ninefold.conversion.distil import soft_labels
from ninefold.trainer import Interrupted


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


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def lines(run: Path) -> list[dict]:
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in each.items() if "second" not in name} for each in told]


@pytest.mark.parametrize("features", [0.0, 1.0])
def test_the_student_comes_closer_and_the_teacher_stays(
    teacher: nn.Module, features: float, tmp_path: Path
) -> None:
    x = torch.randn(64, 2, 8, 8)
    student = convert(teacher, x, terms=1).model
    before, closer = copy.deepcopy(teacher.state_dict()), copy.deepcopy(student)
    chosen = {"layers": ["3"], "features": features, "learning_rate": 5e-3, "batch": 16, "fused": False}
    last = distil(closer, teacher, x, epochs=12, output=tmp_path / "run", **chosen)
    told = lines(tmp_path / "run")
    assert len(told) == 12 and told[-1]["loss"] == last["loss"] < 0.8 * told[0]["loss"]
    with torch.no_grad():
        wanted = teacher(x)
        assert (closer(x) - wanted).square().mean() < 0.5 * (student(x) - wanted).square().mean()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not closer.training and not any(module._forward_hooks for module in closer.modules())


def test_labels_count_where_they_are_asked_for(teacher: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(48, 2, 8, 8)
    labels = (teacher(x).argmax(1) + 1) % 3  # the teacher is always wrong
    data = list(zip(x, labels.tolist(), strict=True))
    right = []
    for weight in (0.0, 50.0):
        student = convert(teacher, x, terms=1).model
        distil(student, teacher, data, epochs=15, batch=16, labels=weight, learning_rate=1e-2, fused=False)
        right.append(float((student(x).argmax(1) == labels).double().mean()))
    assert right[0] < 0.3 and right[1] > 0.7


def test_the_training_kernels_learn_the_same(teacher: nn.Module) -> None:
    x = torch.randn(32, 2, 8, 8)
    student = convert(teacher, x, x, 2).model
    losses = [
        distil(copy.deepcopy(student), teacher, x, epochs=2, batch=16, layers=["3"], fused=fused)["loss"]
        for fused in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


class Stop:
    """Presses Ctrl-C after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, text: str, share: float) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_a_stopped_distillation_resumes_to_the_same_numbers(teacher: nn.Module, tmp_path: Path) -> None:
    x = torch.randn(32, 2, 8, 8)
    student = convert(teacher, x, x, 1).model
    chosen = {"epochs": 3, "batch": 16, "layers": ["3"], "fused": False}
    through, stopped = copy.deepcopy(student), copy.deepcopy(student)
    distil(through, teacher, x, output=tmp_path / "through", **chosen)
    with pytest.raises(Interrupted, match="interrupted after step 5: resume it"):
        distil(stopped, teacher, x, output=tmp_path / "stopped", progress=Stop(5), **chosen)
    with pytest.raises(FileExistsError, match="`output` must not hold a run unless it is resumed"):
        distil(copy.deepcopy(student), teacher, x, output=tmp_path / "stopped", **chosen)
    with pytest.raises(ValueError, match=r"`temperature` must be 4.0, as in the checkpoint, got 2.0"):
        again = {**chosen, "output": tmp_path / "stopped", "resume": True}
        distil(copy.deepcopy(student), teacher, x, temperature=2.0, **again)
    other = convert(teacher, x, x, 2).model
    with pytest.raises(ValueError, match="`output` must hold a checkpoint of this very network, got"):
        distil(other, teacher, x, **again)
    resumed = copy.deepcopy(student)
    distil(resumed, teacher, x, **again)
    assert lines(tmp_path / "stopped") == lines(tmp_path / "through")
    for name, tensor in through.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    with pytest.raises(Interrupted, match="interrupted in distilling: nothing was kept"):
        distil(copy.deepcopy(student), teacher, x, progress=Stop(3), **chosen)


def test_singular_values_alone_are_what_convert_makes_without_data(teacher: nn.Module) -> None:
    x = torch.randn(16, 2, 8, 8)
    fitted = convert(teacher, x, x, 2)
    alone, plain = singular_values_alone(fitted, teacher), convert(teacher, x, None, 2).model
    assert torch.allclose(alone(x), plain(x))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"epochs": 0}, "`epochs` must be positive, got 0"),
        ({"batch": 0}, "`batch` must be positive, got 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive, got 0.0"),
        ({"temperature": float("inf")}, "`temperature` must be positive, got inf"),
        ({"features": -1.0}, "`features` must be non-negative, got -1.0"),
        ({"labels": float("nan")}, "`labels` must be non-negative, got nan"),
        ({"labels": 1.0}, "`labels` must be 0 where `data` has none, got images alone"),
        ({"resume": True}, "`resume` must go with an `output` to go on from, got none"),
        ({"data": []}, "`data` must hold at least one image, got none"),
        ({"data": iter([])}, "`data` must be a tensor of images or a dataset with a length, got list_iter"),
        ({"data": [1, 2]}, "`data` must hold images as tensors, got int"),
        (
            {"data": torch.full((2, 2, 8, 8), float("nan"))},
            "`data` must be finite, and the teacher's answers to it, got NaN or infinity",
        ),
        ({"teacher": nn.Conv2d(2, 3, 3)}, r"`teacher` must give one number per class .*, got \(2, 3, 6, 6\)"),
    ],
)
def test_what_cannot_be_is_refused(teacher: nn.Module, arguments: dict, words: str) -> None:
    student = convert(teacher, torch.randn(1, 2, 8, 8)).model
    teacher = arguments.pop("teacher", teacher)
    data = arguments.pop("data", torch.randn(2, 2, 8, 8))
    with pytest.raises((ValueError, TypeError), match=words):
        distil(student, teacher, data, **{"epochs": 1, "fused": False, **arguments})
