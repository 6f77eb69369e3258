from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import ninefold
from ninefold.inference import remember, tune

X = torch.randn(1, 8, 12, 12)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ninefold" / "tune.json"


def residual_block() -> nn.Module:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(
                nn.Conv2d(8, 24, 1),
                nn.ReLU6(),
                nn.Conv2d(24, 24, 3, padding=1, groups=24),
                nn.ReLU6(),
                nn.Conv2d(24, 8, 1),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + x

    return Residual().eval()


def test_what_is_fastest_is_taken_and_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = residual_block()
    measured = []

    def medians(runs: dict) -> dict[str, float]:
        measured.append(list(runs))
        # Every form computes the block.
        first, *others = (run() for run in runs.values())
        for other in others:
            torch.testing.assert_close(other, first)
        return {name: float(9 - name.count("|")) for name in runs}

    monkeypatch.setattr(tune, "_medians", medians)
    fast = ninefold.for_inference(model, X, tune=True)
    assert len(measured) == 1 and len(measured[0]) == 3
    assert [layer.how for layer in fast.layers] == ["kernel"] * 3
    assert fast.layers[0].choice.startswith("measured pointwise + depthwise + pointwise 9000.000 ms, ")
    torch.testing.assert_close(fast(X), model(X).detach())
    (entry,) = json.loads(cache.read_text())["entries"].values()
    assert set(entry.values()) == {9.0, 8.0, 7.0}
    again = ninefold.for_inference(residual_block(), X, tune=True)
    assert len(measured) == 1 and again.layers[0].choice == fast.layers[0].choice


def test_an_entry_belongs_to_machine_kernels_threads_version_and_shapes(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = residual_block()

    def entries() -> int:
        ninefold.for_inference(model, X, tune=True)
        return len(json.loads(cache.read_text())["entries"])

    assert entries() == entries() == 1
    ninefold.for_inference(model, torch.randn(2, 8, 12, 12), tune=True)
    assert entries() == 2
    for count, (module, name, value) in enumerate(
        (
            (remember, "__version__", "0.0.0"),
            (remember.machine, "processor", lambda: "another"),
            (remember.planner, "instruction_set", lambda: "another"),
            (tune.torch, "get_num_threads", lambda: 7),
        ),
        3,
    ):
        with monkeypatch.context() as changed:
            changed.setattr(module, name, value)
            assert entries() == count


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "it is not JSON"),
        (b"\xff\xfe", "UnicodeDecodeError"),
        (b"[]", "its format is not"),
        (b'{"format": "something else"}', "its format is not"),
        (b'{"format": "ninefold tune 1", "entries": {"a": {"b": "c"}}}', "its entries are not times"),
        (b'{"format": "ninefold tune 1", "entries": {"a": {"b": NaN}}}', "its entries are not times"),
    ],
)
def test_a_file_that_is_not_ours_is_ignored_with_a_word(cache: Path, content: bytes, words: str) -> None:
    cache.parent.mkdir()
    cache.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=f"tune.json is ignored: {words}"):
        fast = ninefold.for_inference(residual_block(), X, tune=True)
    assert fast.layers[0].choice.startswith("measured ")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(remember.load()) == 1


def test_forms_that_no_longer_exist_are_measured_again(cache: Path) -> None:
    ninefold.for_inference(residual_block(), X, tune=True)
    known = remember.load()
    remember.save({key: {"another form": 1.0} for key in known})
    ninefold.for_inference(residual_block(), X, tune=True)
    assert remember.load().keys() == known.keys() and "another form" not in next(
        iter(remember.load().values())
    )


def test_a_folder_that_cannot_be_written_is_a_warning(cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    with pytest.warns(RuntimeWarning, match="for_inference: what was tuned is not kept"):
        fast = ninefold.for_inference(residual_block(), X, tune=True)
    assert fast.layers[0].choice.startswith("measured ")


@pytest.mark.parametrize("told", ["", "relative/folder"])
def test_without_a_folder_told_it_is_the_users(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", told)
    assert remember.file() == Path.home() / ".cache" / "ninefold" / "tune.json"
