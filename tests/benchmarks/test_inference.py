from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest


@pytest.fixture
def inference() -> ModuleType:
    return import_module("inference")


def test_a_factor_is_taken_turn_by_turn(inference: ModuleType) -> None:
    turns = {
        "PyTorch, NCHW": [5.0, 50.0, 6.0],
        "PyTorch, channels-last": [4.0, 40.0, 4.0],
        "Ninefold": [2.0, 10.0, 2.0],
    }
    result = inference.Result("net", 10**6, turns)
    assert result.best_plain == "PyTorch, channels-last"
    assert result.factor(result.best_plain, "Ninefold") == 2.0
    assert result.seconds("Ninefold") == 2.0


def test_libraries_take_turns_in_their_own_processes(inference: ModuleType) -> None:
    names = ["PyTorch, channels-last", "Ninefold"]
    result, versions = inference.run("timm:test_efficientnet", names, threads=1, rounds=3)
    assert versions == {}
    assert [len(result.turns[name]) for name in names] == [3, 3]
    assert all(seconds > 0 for turns in result.turns.values() for seconds in turns)


def test_no_speed_is_reported_for_wrong_logits(
    inference: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong:
        answer, version, name = 0.5, "1", "Ninefold"

        def __init__(self, *arguments: object) -> None:
            self.closed = False

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr(inference, "Contestant", Wrong)
    with pytest.raises(ArithmeticError, match=r"timm:test_efficientnet: Ninefold is off by .* logits' range"):
        inference.run("timm:test_efficientnet", ["Ninefold"], threads=1, rounds=3)
