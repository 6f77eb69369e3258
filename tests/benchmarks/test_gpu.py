"""The GPU benchmark without a GPU: its parts in Triton's interpreter, its processes, limits and tables."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
FOUND = {
    "machine": {"name": "A GPU", "torch": "2", "triton": "3", "cudnn": 9},
    "limits": {"bytes_per_second": 4e12, "operations_per_second": 8e14},
    "tests": {"command": "pytest tests/gpu", "result": "70 passed"},
    "layers": [
        {
            "what": "forward",
            "layer": "32→64",
            "seconds": {"ninefold": 2e-4, "cudnn_nhwc": 5e-4, "cudnn_nchw": 4e-4},
            "wrong": [],
            "bytes": 4e8,
            "operations": 1e9,
        },
        {
            "what": "forward",
            "layer": "64→128",
            "seconds": {"cudnn_nhwc": 5e-4, "cudnn_nchw": 4e-4},
            "wrong": ["ninefold"],
            "bytes": 4e8,
            "operations": 1e9,
        },
    ],
    "training": [
        {
            "network": "mobilenetv2_100",
            "way": way,
            "batch": 256,
            "seconds": seconds,
            "peak_bytes": memory,
            "fall": 1.0,
            "autocast_distance": 0.01,
            "first_step": 3.0,
        }
        for way, seconds, memory in (
            ("ninefold", 0.02, 5e9),
            ("eager_nhwc", 0.05, 1e10),
            ("torch_compile", 0.04, 8e9),
        )
    ],
    "notes": ["No time was left for something."],
}


@pytest.mark.parametrize(
    ("name", "parameters"), [("mobilenetv2_100", 3_504_872), ("efficientnet_lite0", 4_652_008)]
)
def test_the_networks_have_timms_parameters(name: str, parameters: int) -> None:
    import gpu_cases

    model = gpu_cases.network(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(name)
    ours = [tuple(m.weight.shape) for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert ours == [tuple(m.weight.shape) for m in theirs.modules() if isinstance(m, torch.nn.Conv2d)]


def test_the_tables(tmp_path: Path) -> None:
    import gpu_tables

    page = gpu_tables.write(FOUND, tmp_path)
    assert (tmp_path / "gpu.md").read_text() == page and json.loads((tmp_path / "gpu.json").read_text())
    assert "| 32→64 | 200.0 | 500.0 | 400.0 | 2.00× | 50% |" in page
    assert "| 64→128 | wrong | 500.0 | 400.0 | – | – |" in page
    assert "2.00 times as fast as the better of the others and holds 0.62 times its memory." in page
    assert "70 passed" in page and "- No time was left" in page


def test_parts_are_followed_and_stopped_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    import gpu

    told = 'print("a word", flush=True); print("@ " + \'{"kind": "x", "n": 1}\', flush=True)'
    jobs = [
        gpu.start("quick", command=[sys.executable, "-c", told]),
        gpu.start("slow", command=[sys.executable, "-c", f"{told}; import time; time.sleep(60)"]),
        gpu.start("broken", command=[sys.executable, "-c", "raise SystemExit('it broke')"]),
    ]
    began = time.time()
    found = list(gpu.follow(jobs, began + 5))
    assert found == [{"kind": "x", "n": 1}] * 2 and time.time() - began < 20
    said = capsys.readouterr().out
    assert "[slow] stopped: its time is up" in said and "[quick] a word" in said
    assert "[broken] ended with 1" in said and "it broke" in said


def test_all_parts_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gpu

    begin, parts = gpu.start, []

    def imitated(name: str, *arguments: str, command: list[str] | None = None) -> gpu.Job:
        part = arguments[1] if arguments else "tests"
        parts.append(part)
        told = {
            "machine": [{"kind": "machine", **FOUND["machine"]}, {"kind": "limits", **FOUND["limits"]}],
            "layers": [{"kind": "layers", **result} for result in FOUND["layers"]],
            "training": [{"kind": "training", **FOUND["training"][0]}],
        }.get(part, [])
        lines = [f"@ {json.dumps(result)}" for result in told] or ["70 passed in 3 s"]
        return begin(name, command=[sys.executable, "-c", f"print({chr(10).join(lines)!r})"])

    monkeypatch.setattr(gpu, "start", imitated)
    given = argparse.Namespace(seconds=100, results=tmp_path, batch=2, training_batch=4, compiling=None)
    given.only = gpu.PARTS
    assert gpu.everything(given) == 0
    order = list(dict.fromkeys(parts))
    assert order == ["machine", "warm", "warm-compile", "tests", "layers", "training", "compiled"]
    assert parts.count("training") == 10
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert len(written["training"]) == 10 and len(written["layers"]) == 2
    assert written["tests"]["result"] == "70 passed in 3 s" and written["machine"]["name"] == "A GPU"
    said = capsys.readouterr().out
    assert "mobilenetv2_100 by ninefold, batch 256: 20.0 ms a step, 5.00 GB" in said
    assert (tmp_path / "gpu.md").read_text() in said

    parts.clear()
    given.only = ["training"]
    assert gpu.everything(given) == 0
    assert list(dict.fromkeys(parts)) == ["machine", "warm", "warm-compile", "training"]
    parts.clear()
    given.only = ["tests", "max-autotune"]
    assert gpu.everything(given) == 0
    assert list(dict.fromkeys(parts)) == ["machine", "tests", "compiled"]


def test_without_a_gpu_nothing_is_written(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "nothing was measured" in done.stderr
    assert "no NVIDIA GPU" in done.stdout and not list(tmp_path.iterdir())


def test_layers_and_steps_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("gpu_interpreted.py"))],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    lines = done.stdout.splitlines()
    assert not [line for line in lines if "failed" in line or "not captured" in line], done.stdout
    results = [json.loads(line.removeprefix("@ ")) for line in lines if line.startswith("@ ")]
    assert [result.get("what", result.get("way", result["kind"])) for result in results] == [
        *("machine", "limits", "forward", "forward and backward"),
        *("depthwise forward", "depthwise input gradient", "depthwise weight gradient"),
        *("ninefold", "eager_nhwc", "forward, torch.compile"),
    ]
    for result in results:
        assert not result.get("wrong"), result
        assert result["kind"] not in ("layers", "training") or result["seconds"], result
    assert lines[-1].endswith(" kernels") and lines[-1] != "0 kernels"
