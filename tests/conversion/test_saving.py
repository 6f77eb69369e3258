"""A conversion on disk: the same network again, all of it or nothing, and no other network's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ninefold import convert, load_converted
from ninefold.conversion import Conversion

X = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def network(width: int = 6) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 8, 3), nn.Conv2d(8, 4, 3)
    )


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Conversion, Path]:
    result = convert(network(), X, X, terms=2, layers=["3"])
    result.save(tmp_path / "made")
    return result, tmp_path / "made"


def test_a_fresh_network_becomes_the_converted_one(saved: tuple[Conversion, Path]) -> None:
    result, folder = saved
    fresh = network()
    loaded = load_converted(folder, fresh)
    assert torch.equal(loaded.eval()(X), result.model.eval()(X))
    assert isinstance(fresh[3], nn.Conv2d) and loaded.state_dict().keys() == result.model.state_dict().keys()
    assert sorted(path.name for path in folder.iterdir()) == ["conversion.json", "weights.safetensors"]
    described = json.loads((folder / "conversion.json").read_text())
    assert [layer["terms"] for layer in described["layers"]] == [None, 2, None]


def test_both_orders_and_shared_layers_come_back(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = self.other = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.one(x) + self.other(x)

    result = convert(Both().eval(), X, terms=1, order="pointwise")
    result.save(tmp_path / "both")
    assert torch.equal(load_converted(tmp_path / "both", Both()).eval()(X), result.model(X))


def test_a_folder_that_exists_is_refused_and_kept(saved: tuple[Conversion, Path], tmp_path: Path) -> None:
    result, folder = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match=r"`folder` must be new, got '.*made', which exists"):
        result.save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_nothing_is_left_where_writing_fails(
    saved: tuple[Conversion, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, folder = saved
    monkeypatch.setattr(json, "dumps", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        result.save(tmp_path / "other")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (network(5), "its 0.bias has shape"),
        (nn.Sequential(nn.Conv2d(3, 6, 3)), "it has no layer '3'"),
        (nn.Sequential(*[nn.ReLU()] * 4), "'3' is no Conv2d, but ReLU"),
        (nn.Sequential(*network(), nn.Linear(2, 2)), "the conversion has no weights '5.weight'"),
        (network()[:4], "it has no weights '4.bias'"),
    ],
)
def test_the_weights_of_another_network_are_refused(
    saved: tuple[Conversion, Path], model: nn.Module, words: str
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="`model` must be the network that was converted into .*: " + words):
        load_converted(saved[1], model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_broken_folder_is_refused(saved: tuple[Conversion, Path], tmp_path: Path) -> None:
    folder = saved[1]
    with pytest.raises(FileNotFoundError, match=r"`folder` must hold a conversion, got '.*absent', without"):
        load_converted(tmp_path / "absent", network())
    (folder / "weights.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"`folder` must hold a conversion that `save` wrote, got .*Safe"):
        load_converted(folder, network())
    (folder / "conversion.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"`folder` must hold a conversion that `save` wrote, got .*KeyError"
    ):
        load_converted(folder, network())


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda layer: layer.update(terms=10**6), "'3' in 1000000 terms has more weights than it"),
        (lambda layer: layer.update(terms=10**30), f"ValueError: 1{'0' * 30} terms, 'depthwise' first"),
        (lambda layer: layer.update(terms=-1), "-1 terms"),
        (lambda layer: layer.update(terms=True), "True terms"),
        (lambda layer: layer.update(terms=1), "has shape"),
        (lambda layer: layer.update(first="sideways"), "'sideways' first"),
        (lambda layer: layer.update(name=""), "'' is no Conv2d"),
        (lambda layer: layer.update(name="1"), "'1' is no Conv2d, but BatchNorm2d"),
        (lambda layer: layer.update(name="0"), "(no|has) (layer|weights|shape)"),
        (lambda layer: layer.pop("bias"), "KeyError: 'bias'"),
    ],
)
def test_an_altered_description_is_refused(saved: tuple[Conversion, Path], alter: Any, words: str) -> None:
    file = saved[1] / "conversion.json"
    written = json.loads(file.read_text())
    alter(next(layer for layer in written["layers"] if layer["name"] == "3"))
    file.write_text(json.dumps(written))
    with pytest.raises(ValueError, match=words):
        load_converted(saved[1], network())


def test_a_layer_that_stands_twice_or_nothing_but_brackets_is_refused(saved: tuple[Conversion, Path]) -> None:
    file = saved[1] / "conversion.json"
    written = json.loads(file.read_text())
    for text in (json.dumps({**written, "layers": written["layers"] * 2}), "[" * 100_000):
        file.write_text(text)
        with pytest.raises(ValueError, match="`folder` must hold a conversion that `save` wrote"):
            load_converted(saved[1], network())


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_weights_of_another_kind_of_numbers_are_refused(
    saved: tuple[Conversion, Path], dtype: torch.dtype
) -> None:
    from safetensors.torch import load_file, save_file

    file = saved[1] / "weights.safetensors"
    weights = load_file(file)
    weights["0.weight"] = weights["0.weight"].to(dtype)
    save_file(weights, file)
    with pytest.raises(ValueError, match=r"its 0\.weight is torch\.float32, the conversion's torch\."):
        load_converted(saved[1], network())
