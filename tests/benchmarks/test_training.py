from __future__ import annotations

from importlib import import_module
from types import ModuleType

import numpy as np
import pytest

SMALL = "timm:test_efficientnet"


@pytest.fixture
def training() -> ModuleType:
    return import_module("training")


def test_ways_take_turns_and_their_gradients_are_right(training: ModuleType) -> None:
    names = ["PyTorch, channels-last", "Ninefold"]
    result = training.run(training.Task(SMALL, 2, 32, 1), names, seconds=0.01)
    assert result.failed == {}
    assert [len(result.turns[name]) for name in names] == [5, 5]
    assert max(result.errors.values()) < 1e-4
    assert result.memory.keys() == set(names)
    assert result.best_plain == "PyTorch, channels-last"


class Fake:
    """A trainee whose gradient is off by what its name says."""

    OFF = {"PyTorch, NCHW": 1e-6, "Ninefold": 3e-6, "float64": 0.0, "torch.compile": 0.5}  # noqa: RUF012

    def __init__(self, name: str, task: object) -> None:
        self.name = name

    def first(self) -> object:
        first = import_module("trainees").First
        return first(1.0, np.ones(4) + self.OFF[self.name], 100 if self.name == "Ninefold" else 250)

    def turn(self) -> float:
        return 1.0 if self.name == "Ninefold" else 2.5

    def close(self) -> None: ...


def test_figures_stand_beside_both_limits(training: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "Trainee", Fake)
    names = ["PyTorch, NCHW", "Ninefold"]
    result = training.run(training.Task(SMALL, 2, 32, 1), names, seconds=0)
    assert result.factor("PyTorch, NCHW", "Ninefold") == 2.5
    assert result.share_of_memory == 0.4
    limits = training.measure.Limits(1, 100.0, (training.measure.Bandwidth("DRAM", 1 << 28, 10.0),), "")
    table = training.figures([result], names, limits).splitlines()
    cells = [cell.strip() for cell in table[2].split("|")[1:-1]]
    assert cells[:3] == ["test_efficientnet", "2500", "1000"]
    assert cells[5] == "**2.50×** PyTorch, NCHW" and cells[-1] == "0.40"


def test_no_speed_is_reported_for_a_wrong_gradient(
    training: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "Trainee", Fake)
    monkeypatch.setitem(Fake.OFF, "Ninefold", 5e-6)
    with pytest.raises(ArithmeticError, match=r"the gradient is off by 5.0e-06, PyTorch's by 1.0e-06"):
        training.run(training.Task(SMALL, 2, 32, 1), ["PyTorch, NCHW", "Ninefold"], seconds=0)


def test_the_gradients_of_a_layer_alone(training: ModuleType) -> None:
    found = training.gradients(5, 16, 8, 2, batch=2, threads=1)
    assert found.factor > 0 and found.seconds.keys() == {*training.PLAIN[:2], "Ninefold"}
    assert "5×5, 16 × 8², stride 2" in training.gradient_figures([found])


def test_the_networks_of_the_table(training: ModuleType) -> None:
    networks = training.wanted()
    assert networks[0].name == "timm:mobilenetv2_100" and len(networks) == 5
    assert all(network.floor < network.aim for network in networks)
