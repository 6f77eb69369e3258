"""`ninefold train`, as it is typed: alone, stopped and resumed, under torchrun, on bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from click.testing import CliRunner

from ninefold.cli import main

NETWORK = """
from torch import nn
def small():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
"""


@pytest.fixture
def arguments(tmp_path):
    from PIL import Image

    (tmp_path / "net.py").write_text(NETWORK)
    for part, count in (("train", 8), ("val", 2)):
        for shade, name in enumerate("abc"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(count):
                picture = Image.new("RGB", (16, 16), (100 * shade + number,) * 3)
                picture.save(tmp_path / "data" / part / name / f"{number}.png")
    where = ["--data", str(tmp_path / "data"), "-o", str(tmp_path / "run"), "--size", "16", "--batch", "6"]
    return ["train", f"{tmp_path / 'net.py'}:small", *where]


def ninefold(*arguments, launcher=()):
    command = [sys.executable, *launcher, "-m", "ninefold", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def told(tmp_path, run="run"):
    return [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]


def test_it_trains(arguments, tmp_path):
    done = ninefold(*arguments, "--epochs", "2")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        ["epoch", str(each["epoch"]), "loss"] for each in told(tmp_path)
    ]
    assert {"epoch", "step", "loss", "learning_rate", "validation_loss", "accuracy"} <= told(tmp_path)[
        0
    ].keys()
    more = ninefold(*arguments, "--epochs", "3", "--resume", "--json")
    assert [json.loads(line) for line in more.stdout.splitlines()] == told(tmp_path)[2:]
    again = CliRunner().invoke(main, [*arguments, "--epochs", "2"])
    assert again.exit_code == 2 and again.stderr.count("\n") == 1
    assert again.stderr.startswith("ninefold: error: `output` must not hold a run unless it is resumed, got")


def test_interrupted_it_leaves_a_checkpoint_that_resumes(arguments, tmp_path):
    endless = [*arguments, "--epochs", "100000", "--save-every", "1", "--plain"]
    command = [sys.executable, "-m", "ninefold", *endless]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # What a shell starts in the background ignores the signal, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    until = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert stderr.splitlines()[-1].startswith("ninefold: interrupted after step")
    kept = torch.load(checkpoint, weights_only=True)
    assert kept["step"] >= 1


def test_two_processes_are_one_with_both_batches(arguments, tmp_path):
    options = ["--epochs", "2", "--rate", "0.1", "--warm-up", "0"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = ninefold(*arguments, *options, "--synchronised", launcher=launcher)
    assert done.returncode == 0, done.stderr[-2000:]
    alone = [str(tmp_path / "alone") if each == str(tmp_path / "run") else each for each in arguments]
    alone[alone.index("6")] = "12"
    assert ninefold(*alone, *options).returncode == 0
    for ours, theirs in zip(told(tmp_path), told(tmp_path, "alone"), strict=True):
        for name in ("step", "loss", "validation_loss", "accuracy"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4), name


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--data", "nowhere"], "`data` must be a folder that is there, got 'nowhere'"),
        (["--rate", "-1"], "`learning_rate` must be non-negative and finite, got -1.0"),
        (["--resume"], "`output` must hold a checkpoint to resume"),
    ],
)
def test_bad_input_is_one_line(arguments, tmp_path, changed, words):
    done = CliRunner().invoke(main, [*arguments, *changed])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert words in done.stderr
    assert not (tmp_path / "run").exists(), "nothing half-written"
