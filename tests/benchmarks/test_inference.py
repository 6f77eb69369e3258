from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

SMALL = "timm:test_efficientnet"


@pytest.fixture
def inference() -> ModuleType:
    return import_module("inference")


@pytest.fixture
def pages() -> ModuleType:
    return import_module("inference_page")


@pytest.fixture(autouse=True)
def files_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(import_module("cases"), "FOLDER", tmp_path / "peers")


def result(inference: ModuleType, turns: dict[str, list[float]], **changed: object) -> object:
    fields = {"network": "timm:mobilenetv1_100", "batch": 1, "threads": 1, "multiplications": 10**6}
    fields |= {"parameters": 1000, "turns": turns, "errors": dict.fromkeys(turns, 0.0), "failed": {}}
    return inference.Result(**(fields | changed))


def test_a_factor_is_taken_turn_by_turn(inference: ModuleType) -> None:
    turns = {
        "PyTorch, NCHW": [5.0, 50.0, 6.0],
        "PyTorch, channels-last": [4.0, 40.0, 4.0],
        "Ninefold": [2.0, 10.0, 2.0],
    }
    timed = result(inference, turns)
    assert timed.fastest(("PyTorch, NCHW", "PyTorch, channels-last")) == "PyTorch, channels-last"
    assert timed.factor("PyTorch, channels-last", "Ninefold") == 2.0
    assert timed.seconds("Ninefold") == 2.0
    assert timed.fastest(inference.PEERS) is None


def test_libraries_take_turns_in_their_own_processes(inference: ModuleType) -> None:
    names = ["PyTorch, channels-last", "Ninefold"]
    case = inference.cases.prepare(SMALL, 2)
    assert case.input.shape[0] == case.answer.shape[0] == 2
    timed = inference.run(case, names, threads=1, seconds=0.01)
    assert timed.failed == {}
    assert list(timed.turns) == names and all(len(turns) >= 7 for turns in timed.turns.values())
    assert all(seconds > 0 for turns in timed.turns.values() for seconds in turns)
    assert timed.multiplications == 2 * inference.cases.prepare(SMALL, 1).multiplications


class Wrong:
    def __init__(self, name: str, case: object, threads: int) -> None:
        self.name, self.case = name, case

    def answer(self) -> np.ndarray:
        return self.case.answer + (0 if self.name == "PyTorch, NCHW" else 0.5)

    def turn(self, calls: int) -> list[float]:
        return [0.1] * calls

    def close(self) -> None: ...


def test_no_speed_is_reported_for_a_wrong_result(
    inference: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("rounds"), "Contestant", Wrong)
    case = inference.cases.prepare(SMALL, 1)
    timed = inference.run(case, ["PyTorch, NCHW", "torch.compile"], threads=1, seconds=0)
    assert list(timed.turns) == ["PyTorch, NCHW"]
    assert "off by" in timed.failed["torch.compile"]
    with pytest.raises(ArithmeticError, match=r"timm:test_efficientnet: Ninefold: off by .* of the range"):
        inference.run(case, ["Ninefold"], threads=1, seconds=0)


def test_nan_is_infinitely_wrong(inference: ModuleType, tmp_path: Path) -> None:
    np.save(tmp_path / "answer.npy", np.array([[0.0, 2.0]]))
    case = inference.Case("net", 1, 1, 1, tmp_path)
    assert case.error(np.array([[0.0, 1.0]])) == 0.5
    assert case.error(np.array([[0.0, float("nan")]])) == case.error(np.zeros(2)) == float("inf")


def test_a_library_that_ends_early_says_so(inference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    case = inference.cases.prepare(SMALL, 1)
    missing = inference.Case("timm:no_such_network", 1, 1, 1, case.folder)
    timed = inference.run(missing, ["PyTorch, NCHW"], threads=1, seconds=0)
    assert timed.turns == {} and "ValueError: `model` must be one of timm's" in timed.failed["PyTorch, NCHW"]


def test_a_file_is_converted_once(inference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    converters = import_module("converters")
    case = inference.cases.prepare(SMALL, 1)

    def convert(how: Callable[..., None]) -> str:
        reason: str = inference.cases.converted(case, "network.txt", "click", how)
        return reason

    assert convert(converters.refuse) == "ValueError: there is no way"
    assert convert(converters.forget) == "it wrote no file"
    assert convert(converters.write) == ""
    assert (case.folder / "network.txt").read_text() == "EfficientNet (1, 3, 160, 160)"
    assert convert(converters.refuse) == ""


def test_every_library_says_how_it_is_set(inference: ModuleType) -> None:
    assert {"torch.compile", "ONNX Runtime", "OpenVINO", "ncnn", "ExecuTorch"} == set(inference.PEERS)
    for library in inference.LIBRARIES.values():
        assert library.settings and bool(library.file) == (library.convert is not None)


def test_a_missing_library_is_named(inference: ModuleType, pages: ModuleType) -> None:
    row = replace(inference.LIBRARIES["ncnn"], package="no_such_package", needs=("torch", "nor_this"))
    assert row.missing == ("no_such_package", "nor_this")
    timed = result(inference, {"Ninefold": [1.0]}, failed={"OpenVINO": "off by 1"})
    run = inference.Run(
        "", "", (), {"Ninefold": "1"}, {"Ninefold": "as it was"}, {"ncnn": row.missing}, (timed,)
    )
    notes = "\n".join(pages.notes(run))
    assert "- Ninefold 1: as it was\n" in notes
    assert "ncnn is not here: no_such_package, nor_this is not installed (`make peers`)" in notes
    assert "no time for OpenVINO on timm:mobilenetv1_100, batch 1, 1 thread: off by 1" in notes


def test_the_limit_of_the_weights_is_that_of_the_cache_they_fit_in(
    inference: ModuleType, pages: ModuleType
) -> None:
    levels = tuple(
        SimpleNamespace(level=level, size=size, gigabytes_per_second=speed)
        for level, size, speed in (("L2", 2000, 4e-6), ("L3", 8000, 2e-6), ("DRAM", 99000, 1e-6))
    )
    limits = SimpleNamespace(gflops=1e-3, bandwidths=levels)
    for parameters, seconds in ((1000, 1.0), (1001, 2.002), (5000, 20.0)):
        timed = result(inference, {"Ninefold": [1.0]}, parameters=parameters)
        assert pages.weights(timed, limits) == pytest.approx(seconds)
    assert pages.arithmetic(timed, limits) == pytest.approx(2.0)


def test_the_ten_networks_have_their_goals(inference: ModuleType, pages: ModuleType) -> None:
    goals = inference.wanted()
    assert len(goals) == 10 and goals["timm:xception41"] == (1.03, 1.15)
    slow = result(inference, {"OpenVINO": [1.0, 1.0], "Ninefold": [1.0, 1.0]})
    assert "Under what is wanted: mobilenetv1_100 (1.00× of 1.03×)" in pages.summary([slow])
    fast = result(inference, {"OpenVINO": [2.0, 2.0], "Ninefold": [1.0, 1.0]})
    assert "Nothing is under what is wanted." in pages.summary([fast])


def test_page_plot_and_data_are_written(
    inference: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(inference.page, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(import_module("rounds"), "Contestant", Wrong)
    monkeypatch.setattr(Wrong, "answer", lambda self: self.case.answer)
    arguments = ["--network", SMALL, "--batch", "1", "--threads", "1", "--seconds", "0", "--write"]
    arguments += ["--library", "PyTorch, NCHW"]
    done = CliRunner().invoke(inference.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    page = (tmp_path / "results" / "inference.md").read_text()
    for words in (
        "## Batch 1, 1 thread",
        "| test_efficientnet ",
        "limits, 1 thread",
        "1.00×",
        "PyTorch, NCHW",
    ):
        assert words in page, words
    data = json.loads((tmp_path / "results" / "inference.json").read_text())
    (run,) = data["runs"]
    assert run["results"][0]["network"] == SMALL and run["machines"][0]["gflops"] > 0
    assert "<svg" in (tmp_path / "results" / "inference.svg").read_text()


def test_a_run_keeps_what_earlier_ones_measured_otherwise(
    inference: ModuleType, pages: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = import_module("ninefold.surroundings").describe
    measure = import_module("ninefold.measure")
    memory = (measure.Bandwidth("DRAM", 1 << 27, 20.0),)
    limits = {count: measure.Limits(count, 100.0, memory, "a loop") for count in (1, 2)}

    def run(command: str, *groups: tuple[int, int], seconds: float) -> object:
        results = tuple(
            result(inference, {"Ninefold": [seconds]}, batch=batch, threads=threads)
            for batch, threads in groups
        )
        machines = tuple(machine(limits[count]) for count in sorted({threads for _, threads in groups}))
        libraries = {"Ninefold": "1"}, {"Ninefold": command}
        return inference.Run(command, "2026-01-01", machines, *libraries, {}, results)

    first = run("first", (1, 1), (1, 2), (8, 2), seconds=0.002)
    again = run("again", (1, 1), (8, 1), seconds=0.001)
    path = tmp_path / "inference.json"
    assert pages.kept(path) == []
    path.write_text(pages.data([first]), encoding="utf-8")
    assert pages.kept(path) == [first]
    both = pages.beside(pages.kept(path), again)
    assert [(each.command, [timed.group for timed in each.results]) for each in both] == [
        ("again", [(1, 1), (8, 1)]),
        ("first", [(1, 2), (8, 2)]),
    ]
    assert [[each.threads for each in one.machines] for one in both] == [[1], [2]]
    text = pages.text(both)
    assert text.index("Batch 1, 1 thread") < text.index("`again`") < text.index("Batch 1, 2 threads")
    assert "`first`, 2026-01-01" in text and text.count("Batch 1, 1 thread") == 1
    assert pages.drawing(both).count("batch 8, ") == 2
    assert pages.beside(both, run("all", (1, 1), (1, 2), (8, 1), (8, 2), seconds=1.0))[0].command == "all"
