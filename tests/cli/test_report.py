from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from ninefold import measure
from ninefold.cli import main

PAIR = """
from torch import nn
def net():
    pair = nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.ReLU(), nn.Conv2d(3, 8, 1)
    return nn.Sequential(*pair, nn.AdaptiveAvgPool2d(1), nn.Flatten())
def maps(): return nn.Conv2d(3, 2, 3)
def linear(): return nn.Linear(3, 2)
def short(): return nn.Linear(224, 2)
"""


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring a machine takes seconds, and has tests of its own."""
    bandwidths = (measure.Bandwidth("DRAM", 1 << 27, 10.0),)
    monkeypatch.setattr(
        measure, "limits", lambda threads: measure.Limits(threads, 100.0, bandwidths, "a guess")
    )


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(PAIR)
    return f"{tmp_path / 'mine.py'}"


def report(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["report", "--seconds", "0.1", "--threads", "1", *arguments])


def test_any_network_gets_its_page(source: str, tmp_path: Path) -> None:
    result = report(f"{source}:net", "--json", "-o", str(tmp_path / "page.html"))
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["network"] == "mine.py:net" and not said["trained"]
    assert [block["how"] for block in said["blocks"]] == ["fused"]
    assert said["totals"]["multiplications"] == 224 * 224 * 3 * (9 + 8)
    assert said["sight"] is None and said["machine"]["threads"] == 1
    assert "weights are random" in (tmp_path / "page.html").read_text()


def test_the_terminal_shows_the_brief(source: str, tmp_path: Path) -> None:
    result = report(f"{source}:maps", "-o", str(tmp_path / "page.csv"))
    assert result.exit_code == 0, result.output
    for words in (
        "2.66 M multiplications",
        "Where the time goes",
        "What if these were separable",
        "page.csv",
    ):
        assert words in result.stdout, words
    assert (tmp_path / "page.csv").read_text().startswith("position,name,kind")


def test_a_photograph_is_the_input_and_is_seen(source: str, tmp_path: Path) -> None:
    result = report(f"{source}:net", "--image", "coffee", "--json", "-o", str(tmp_path / "page.html"))
    assert result.exit_code == 0, result.output
    sight = json.loads(result.stdout)["sight"]
    assert sight["photo"] == "coffee" and len(sight["ninefold"]) == 5
    assert [guess["index"] for guess in sight["plain"]] == [guess["index"] for guess in sight["ninefold"]]
    assert "data:image/jpeg" in (tmp_path / "page.html").read_text()


def test_weights_from_a_file_are_used(source: str, tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2, 3, 3, 3), "bias": torch.zeros(2)}, tmp_path / "w.pth")
    weights = ("--weights", str(tmp_path / "w.pth"), "--json", "-o", str(tmp_path / "page.html"))
    result = report(f"{source}:maps", *weights)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["trained"]
    result = report(f"{source}:net", *weights)
    assert result.exit_code == 2 and "`weights` must be this network's" in result.stderr


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("timm:efficientnet_lite9", "did you mean"),
        ("absent.onnx", "must be a file that is there"),
        ("absent.pt2", "must be a file that is there"),
        ("nonsense", "got 'nonsense'"),
    ],
)
def test_an_unknown_network_is_one_line_and_exit_2(model: str, words: str) -> None:
    result = report(model)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("ninefold: error: `model` must")
    assert words in result.stderr


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            "linear",
            "`model` must run on its example input, (1, 3, 224, 224), got mine.py:linear: RuntimeError",
        ),
        ("short", "`model` must have a convolution, got mine.py:short, which calls none"),
    ],
)
def test_a_network_that_cannot_be_reported_on_is_refused(
    source: str, tmp_path: Path, function: str, words: str
) -> None:
    page = tmp_path / "page.html"
    result = report(f"{source}:{function}", "-o", str(page))
    assert result.exit_code == 2 and words in result.stderr and not page.exists()


def test_an_output_that_cannot_be_written_is_refused_before_any_work(source: str, tmp_path: Path) -> None:
    result = report(f"{source}:net", "-o", str(tmp_path / "no" / "page.html"))
    assert result.exit_code == 2 and "`output` must be in a folder that is there" in result.stderr
    result = report(f"{source}:net", "-o", str(tmp_path / "page.pdf"))
    assert result.exit_code == 2 and "`output` must end in .html, .csv or .json" in result.stderr
