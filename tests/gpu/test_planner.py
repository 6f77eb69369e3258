"""Which way is taken: the fastest that was measured, or the first; and what the file keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
from ninefold.gpu import choices, planner

X = torch.zeros(1)


@pytest.fixture(autouse=True)
def seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, float]]:
    """A machine that can measure, and what it measures."""
    taken = {"a": 3.0, "b": 1.0, "pytorch": 2.0}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(planner, "can_measure", lambda like: True)
    monkeypatch.setattr(planner, "_is_real", lambda like: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(planner, "_times", lambda ways, device: {name: taken[name] for name in ways})
    planner.forget()
    yield taken
    planner.forget()


def ways(calls: list[str], *failing: str) -> dict[str, planner.Way]:
    def way(name: str) -> str:
        calls.append(name)
        if name in failing:
            raise RuntimeError("out of resource: shared memory\nmore")
        return name

    return {name: lambda name=name: way(name) for name in ("a", "b", "pytorch")}  # type: ignore[misc]


def test_the_fastest_is_taken_and_measured_once(seconds: dict[str, float]) -> None:
    calls: list[str] = []
    assert planner.run("task", ways(calls), X) == "b"
    calls.clear()
    seconds["a"] = 0.1
    assert planner.run("task", ways(calls), X) == "b" and calls == ["b"]
    assert planner.run("another task", ways(calls), X) == "a"


def test_a_layer_is_left_to_pytorch_where_that_is_faster(seconds: dict[str, float]) -> None:
    seconds["pytorch"] = 0.5
    assert planner.run("task", ways([]), X) == "pytorch"


def test_another_process_finds_the_choice_in_the_file(seconds: dict[str, float]) -> None:
    planner.choose("task", ways([]), X)
    written = json.loads(choices.file().read_text())
    (where,) = written["choices"]
    assert "triton" in where and "ninefold" in where and written["choices"][where] == {"task": "b"}
    planner.forget()
    seconds["a"] = 0.1
    calls: list[str] = []
    assert planner.run("task", ways(calls), X) == "b" and calls == ["b"]


def test_another_version_measures_again(seconds: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    planner.choose("task", ways([]), X)
    planner.forget()
    monkeypatch.setattr(choices, "surroundings", lambda device: "another driver")
    seconds["a"] = 0.1
    assert planner.run("task", ways([]), X) == "a"
    assert len(json.loads(choices.file().read_text())["choices"]) == 2


@pytest.mark.parametrize("content", ["", "no JSON", "[]", '{"format": "another"}'])
def test_a_file_that_is_not_ours_is_written_anew(content: str) -> None:
    choices.file().parent.mkdir(parents=True)
    choices.file().write_text(content)
    assert planner.choose("task", ways([]), X) == "b"
    assert json.loads(choices.file().read_text())["format"] == "ninefold gpu 1"


def test_a_file_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert planner.choose("task", ways([]), X) == "b"


def test_while_a_graph_is_captured_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "can_measure", lambda like: False)
    calls: list[str] = []
    assert planner.run("task", ways(calls), X) == "a" and calls == ["a"]
    monkeypatch.setattr(planner, "can_measure", lambda like: True)
    assert planner.run("task", ways(calls), X) == "b"
    monkeypatch.setattr(planner, "can_measure", lambda like: False)
    assert planner.run("task", ways(calls), X) == "b"


def test_a_way_that_fails_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    assert planner.run("task", ways([], "b"), X) == "pytorch"
    assert "task as b cannot be measured: RuntimeError: out of resource: shared memory" in caplog.text


def test_a_way_that_fails_later_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "can_measure", lambda like: False)
    calls: list[str] = []
    assert planner.run("task", ways(calls, "a"), X) == "b" and calls == ["a", "b"]
    assert planner.run("task", ways(calls, "a"), X) == "b" and calls == ["a", "b", "b"]


def test_without_memory_the_error_is_the_callers() -> None:
    def way() -> None:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        planner.run("task", {"a": way}, X)


def test_tensors_without_a_gpu_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert not planner.can_measure(X)


def test_times_are_medians_of_rounds_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    clock, order = [0.0], []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = clock[0]

        def elapsed_time(self, other: Event) -> float:
            return other.at - self.at

    def way(name: str, milliseconds: list[float]) -> planner.Way:
        def run() -> None:
            order.append(name)
            clock[0] += milliseconds.pop(0)

        return run

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(planner, "_FLUSH", 8)
    found = planner._times(
        {"a": way("a", [9, 1, 2, 1, 1]), "b": way("b", [3, 3, 30, 4, 3])}, torch.device("cpu")
    )
    assert found == {"a": 0.001, "b": 0.003} and order == ["a", "b"] * 5
