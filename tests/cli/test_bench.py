from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from ninefold.cli import bench, main


@pytest.mark.parametrize("which", bench.BENCHMARKS)
def test_a_benchmark_is_run_with_what_follows(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        ran.append(command[1:])
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    result = CliRunner().invoke(main, ["bench", which, "--threads", "1"])
    assert result.exit_code == 3
    ((program, *arguments),) = ran
    assert Path(program).name == f"{which}.py" and Path(program).is_file()
    assert arguments == ["--threads", "1"]


def test_without_the_checkout_it_says_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "_FOLDER", tmp_path)
    result = CliRunner().invoke(main, ["bench", "ops"])
    assert result.exit_code == 2
    assert "the benchmarks are in Ninefold's source checkout" in result.stderr


def test_an_unknown_benchmark_is_one_line() -> None:
    result = CliRunner().invoke(main, ["bench", "games"])
    assert (
        result.exit_code == 2 and "'games' is not one of" in result.stderr and result.stderr.count("\n") == 1
    )


@pytest.mark.parametrize("which", bench.BENCHMARKS)
def test_every_benchmark_can_print_json(which: str) -> None:
    program = (bench._FOLDER / f"{which}.py").read_text(encoding="utf-8")
    flags = '@click.option("--json", "as_json", is_flag=True', 'add_argument("--json", action="store_true"'
    assert any(flag in program for flag in flags)
