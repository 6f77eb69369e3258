from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ninefold import measure


@pytest.fixture
def preparation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.setattr(import_module("cases"), "FOLDER", tmp_path / "peers")
    return import_module("preparation")


class Here(list[Any]):
    """A pipe to this process."""

    send = list.append


def test_a_network_is_captured_packed_and_weighed(
    preparation: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_TRIES", 1)
    case = preparation.cases.prepare("layer:separable 8 16 12 1", 1)
    seconds, memory = Here(), Here()
    with measure.torch_threads(1):
        preparation._seconds(seconds, case)
        preparation._memory(memory, case, preparation.NINEFOLD)
    ((export, whole),) = seconds
    assert export > 0 and whole > 0
    assert len(memory) == 1 and memory[0] % 4096 == 0


def test_the_table_says_what_was_added_and_who_is_not_here(preparation: ModuleType) -> None:
    result = preparation.Result("timm:some", 1.25, 2.0, 500_000, {"Ninefold": 3_000_000, "OpenVINO": None})
    head, _, row = preparation.figures([result]).splitlines()
    assert "added, s" in head
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *("some", "1.25", "2.00", "0.75", "2", "3", "not here")
    ]
