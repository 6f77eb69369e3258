"""The threads that stay together through a plan, under ThreadSanitizer: see team.cpp beside this file."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
RUNTIME = HERE.parents[1] / "kernels" / "runtime"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory, lacks: Callable[[str], Any]) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        lacks("g++")
    built = tmp_path_factory.mktemp("team") / "team"
    options = ["-std=c++20", "-O1", "-fsanitize=thread", "-pthread", "-Wall", "-Werror", f"-I{RUNTIME}"]
    done = subprocess.run(
        [compiler, *options, HERE / "team.cpp", "-o", built], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return built


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_index_is_run_once(driver: Path, threads: int) -> None:
    # ThreadSanitizer wants its addresses where it expects them.
    fixed = [setarch, "-R"] if (setarch := shutil.which("setarch")) else []
    done = subprocess.run([*fixed, driver, str(threads), "2000"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 wrong, 20 caught\n", "")
