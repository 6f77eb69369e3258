"""The sanitizers' driver is built by hand and seldom: that it still fits the runtime is looked at here."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "verification" / "sanitize").glob("*.cpp"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_it_compiles_against_the_runtime(source: Path, lacks: Callable[[str], Any]) -> None:
    compiler, halide = shutil.which("g++"), importlib.util.find_spec("halide")
    if compiler is None or halide is None or halide.origin is None:
        lacks("g++ or no Halide")
    folders = source.parent, ROOT / "kernels" / "runtime", Path(halide.origin).parent / "include"
    options = ["-std=c++20", "-fsyntax-only", "-Wall", "-Werror", *(f"-I{folder}" for folder in folders)]
    done = subprocess.run([compiler, *options, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_source_is_built() -> None:
    listed = (ROOT / "verification" / "sanitize" / "CMakeLists.txt").read_text(encoding="utf-8")
    assert SOURCES and all(f" {source.name}" in listed for source in SOURCES)
