"""The conversion's benchmark: what it keeps of an interrupted run, and what it makes of figures."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn


@pytest.fixture
def convert(benchmarks):
    return importlib.import_module("convert")


@pytest.fixture
def benchmarks():
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


RUN = {"ratio": 0.25, "original": 90.0, "singular_values": 10.0, "calibrated": 87.0}


def test_a_finished_run_is_not_made_again(convert, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "say", lambda text: None)
    data = convert.Pictures(torch.randn(128, 2, 6, 6), torch.arange(128) % 10)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 10))
    assert not convert.begun(tmp_path / "run")
    convert.train(model, data, tmp_path / "run", epochs=2, rate=1e-3, seed=0)
    assert convert.begun(tmp_path / "run")
    again = nn.Sequential(nn.Flatten(), nn.Linear(72, 10))
    monkeypatch.setattr(convert.trainer, "train", None)
    convert.train(again, data, tmp_path / "run", epochs=2, rate=1e-3, seed=0)
    assert torch.equal(again[1].weight, model[1].weight)


def test_new_weights_are_new_and_all_learn(convert):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).requires_grad_(False)
    model[1].running_mean.fill_(3)
    made = convert.fresh(model)
    assert not torch.equal(made[0].weight, model[0].weight) and not made[1].running_mean.any()
    assert all(parameter.requires_grad for parameter in made.parameters())


def test_a_row_is_the_mean_of_its_runs_and_two_differences(convert):
    runs = [RUN | {"distilled": 89.0, "scratch": 88.0}, RUN | {"distilled": 91.0, "scratch": 88.5}]
    cells = "0.250 90.00 10.00 87.00 90.00 88.25 +0.00 +1.75"
    page = importlib.import_module("conversion_page")
    assert page.row("mean", runs) == ["mean", *cells.split()]


def test_the_images_left_over_are_a_table_of_their_own(convert):
    page = importlib.import_module("conversion_page")
    runs = [
        RUN
        | {
            "network": "net",
            "seed": seed,
            "left_over": {"original": 90, "distilled": 89 + seed, "scratch": 88},
        }
        for seed in (0, 1)
    ]
    lines = [
        line.split("|")[1:-1] for line in "\n".join(page.left_over(runs)).splitlines() if line.startswith("|")
    ]
    assert [cell.strip() for cell in lines[-1]] == ["**mean**", "90.00", "89.50", "88.00"]
    assert page.left_over([RUN]) == []
