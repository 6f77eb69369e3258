"""Every operand ends at a page that must not be touched: one byte read or written past an end kills the
child."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_kernels = pytest.importorskip("ninefold._kernels", reason="the extension is not built")

SCRIPTS = {"guarded_operands.py": 1232, "guarded_training.py": 672}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("name", _kernels.instruction_sets())
def test_nothing_past_an_end_is_touched_and_all_of_the_output_is_written(name: str, script: str) -> None:
    path = Path(__file__).with_name(script)
    child = subprocess.run(
        [sys.executable, str(path), name], capture_output=True, text=True, timeout=300, check=False
    )
    assert child.returncode == 0, f"exit {child.returncode}: {child.stderr[-2000:]}"
    assert child.stdout == f"{SCRIPTS[script]} cases\n"
