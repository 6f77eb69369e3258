from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ninefold.cli import main


def report(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["report", "--seconds", "0.1", "--threads", "1", *arguments])


def test_any_network_gets_its_page(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n"
        "def net():\n"
        "    pair = nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.ReLU(), nn.Conv2d(3, 8, 1)\n"
        "    return nn.Sequential(*pair, nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    result = report(f"{file}:net", "--json", "-o", str(tmp_path / "page.html"))
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["network"] == "mine.py:net" and not said["trained"]
    assert [layer["fate"] for layer in said["layers"]] == ["fused"]
    assert said["count"]["multiplications"] == 224 * 224 * 3 * (9 + 8)
    assert len(said["ninefold"]["guesses"]) == 5
    assert "random weights" in (tmp_path / "page.html").read_text()


def test_fewer_than_five_classes_are_all_shown(tmp_path: Path) -> None:
    file = tmp_path / "two.py"
    file.write_text(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    result = report(f"{file}:net", "--json", "-o", str(tmp_path / "page.html"))
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["ninefold"]["guesses"]) == 2


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("timm:efficientnet_lite9", "did you mean"),
        ("net.onnx", "must not be an ONNX file"),
        ("absent.pt2", "must be a file that is there"),
        ("nonsense", "got 'nonsense'"),
    ],
)
def test_an_unknown_network_is_one_line_and_exit_2(model: str, words: str) -> None:
    result = report(model)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("ninefold: error: `model` must") and result.stderr.count("\n") == 1
    assert words in result.stderr


def test_a_network_without_classes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "map.py"
    file.write_text("from torch import nn\ndef net(): return nn.Conv2d(3, 2, 3)\n")
    result = report(f"{file}:net", "-o", str(tmp_path / "page.html"))
    assert result.exit_code == 2
    assert "must be a classifier of pictures, got map.py:net, which returns the shape" in result.stderr
    file.write_text("from torch import nn\ndef net(): return nn.Linear(3, 2)\n")
    assert "which fails on one" in report(f"{file}:net", "-o", str(tmp_path / "page.html")).stderr
