"""`make suites`: other people's suites, faults and hostile files, as the tests have them, counted.

They run in `make test` too; here their numbers are written down.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import record

ROOT = Path(__file__).parents[1]
SUITES = {
    "the ONNX backend's convolution cases": ("tests/suites/test_onnx_backend.py",),
    "Keras's tables": ("tests/suites/test_keras.py",),
    "PyTorch's OpInfo samples": ("tests/ops/test_pytorch_samples.py",),
    "faults": ("tests/faults", "tests/kernels/test_errors.py", "tests/kernels/test_memory.py"),
    "sizes beyond 32 bits": ("tests/ops/test_sizes.py",),
    "hostile files": (
        *("tests/models/test_files.py", "tests/conversion/test_saving.py", "tests/test_datasets.py"),
        *("tests/verification/test_corpus.py",),
    ),
}


def main() -> int:
    """Run each; 0 if every test passed."""
    parser = argparse.ArgumentParser(prog="make suites", description=__doc__)
    parser.add_argument("--suite", action="append", choices=list(SUITES))
    parser.add_argument("--write", action="store_true", help="what was counted into results.json")
    options = parser.parse_args()
    bad = 0
    for name in options.suite or SUITES:
        passed, failed = _run(SUITES[name])
        bad += failed
        print(f"{name:40} {passed:6,} passed, {failed} failed or skipped", flush=True)
        if options.write:
            row = {"counted": {"tests passed": passed}, "failed": failed}
            record.keep("commands", {f"make suites: {name}": row})
    return 1 if bad else 0


def _run(files: tuple[str, ...]) -> tuple[int, int]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"]
        subprocess.run([*command, *files], cwd=ROOT, capture_output=True, check=False)
        suite = ElementTree.parse(report).getroot()[0]
    total, bad = int(suite.get("tests", 0)), 0
    for kind in ("failures", "errors", "skipped"):
        bad += int(suite.get(kind, 0))
    return total - bad, bad


if __name__ == "__main__":
    sys.exit(main())
