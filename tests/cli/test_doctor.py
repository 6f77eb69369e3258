from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import NoReturn

import pytest
from click.testing import CliRunner

from ninefold import measure
from ninefold.cli.doctor import command

QUICK = measure.limits


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "limits", lambda count: QUICK(count, seconds=0.01, tries=1))


def test_everything_is_said() -> None:
    result = CliRunner().invoke(command, ["--threads", "1"])
    assert result.exit_code == 0, result.output
    words = ("instruction set", "threads", "torch 2.", "ninefold", "GFLOP/s", "DRAM", "OpenMP", "falls back")
    for word in words:
        assert word in result.stdout, word
    assert "measuring" in result.stderr


def test_json_is_json_and_nothing_else() -> None:
    found = json.loads(CliRunner().invoke(command, ["--threads", "1", "--json"]).stdout)
    (limits,) = found["limits"]
    assert limits["threads"] == 1 and limits["gflops"] > 0
    assert {"L1", "L2"} <= set(found["caches"]) or found["caches"] == {}
    assert found["instruction_set"] in [*found["instruction_sets"], None]
    assert found["extension"] == (measure.extension() is not None)


def test_without_the_extension_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "extension", lambda: None)
    result = CliRunner().invoke(command, ["--threads", "1"])
    assert result.exit_code == 0, result.output
    assert "the compiled kernels are not installed" in " ".join(result.stdout.split())
    assert "PyTorch's matmul and copy, a lower bound" in " ".join(result.stdout.split())


@pytest.mark.parametrize("extension", [True, False])
def test_without_torch_it_works(extension: bool) -> None:
    hide = "import sys; sys.modules['torch'] = None\n"
    if not extension:
        hide += "sys.modules['ninefold._kernels'] = None\n"
    run = "from ninefold.cli.doctor import command; command(['--json', '--threads', '1'])"
    result = subprocess.run([sys.executable, "-c", hide + run], capture_output=True, text=True, check=True)
    found = json.loads(result.stdout)
    assert found["threads"] is None
    assert "PyTorch is not installed" in found["falls_back"][0]
    assert bool(found["limits"]) == found["extension"] and (extension or not found["extension"])


def test_an_instruction_set_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, lacks: Callable[[str], NoReturn]
) -> None:
    if measure.extension() is None:
        lacks("compiled kernels")
    monkeypatch.setenv("NINEFOLD_ISA", "mmx")
    result = CliRunner().invoke(command, ["--threads", "1"])
    assert isinstance(result.exception, ValueError)
    assert "`NINEFOLD_ISA` must be one of" in str(result.exception) and "'mmx'" in str(result.exception)


def test_two_openmp_runtimes_are_complained_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ninefold.machine.openmp_runtimes", lambda: ("/a/libgomp.so.1", "/b/libiomp5.so"))
    result = CliRunner().invoke(command, ["--threads", "1"])
    assert "2 OpenMP runtimes fight for the cores" in " ".join(result.stdout.split())
