"""The plugin that keeps a skipped test from passing unseen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[2] / "environments" / "pytest"


def run(folder: Path, source: str, *, strict: bool) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text("import pytest\ndef test_passes(): pass\n" + source)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "ninefold_unexpected_skips",
        "-p",
        "no:cacheprovider",
    ]
    environment = {**os.environ, "PYTHONPATH": str(PLUGINS), "NINEFOLD_FAIL_ON_SKIP": "1" if strict else ""}
    command += ["--rootdir", str(folder), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)


@pytest.mark.parametrize(
    ("source", "fails"),
    [
        ("def test_skips(): pytest.skip('no such library')\n", True),
        ("pytest.importorskip('no_such_module')\n", True),
        ("@pytest.mark.skip(reason='slow')\ndef test_skips(): pass\n", True),
        ("def test_skips(): pytest.skip('this machine has no AVX-512')\n", False),
        ("@pytest.mark.xfail\ndef test_known(): assert False\n", False),
    ],
)
def test_a_skip_fails_the_run_unless_the_machine_is_the_reason(
    source: str, fails: bool, tmp_path: Path
) -> None:
    strict, easy = run(tmp_path, source, strict=True), run(tmp_path, source, strict=False)
    assert easy.returncode in (0, 5), easy.stdout
    assert (strict.returncode != 0) == (fails or easy.returncode != 0), strict.stdout
    assert ("without the machine being the reason" in strict.stdout) == fails
