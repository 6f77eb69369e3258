"""`make sanitize`: the C++ runtime and the kernels under sanitizers, without Python.

AddressSanitizer and UndefinedBehaviorSanitizer watch random layers, plans and training passes, forward and
backward, ThreadSanitizer threads that share layers and a plan. The kernels are instrumented too (Halide has
the passes). Each sanitizer is first shown a fault inside a kernel, which it must report: one that sees
nothing is no witness. ThreadSanitizer sees accesses of up to 16 bytes, so there the kernels are those of
128-bit vectors; loops run on the calling thread, because gcc's OpenMP runtime is not instrumented.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import record

HERE = Path(__file__).parent
BUILD = HERE.parent / "build"
COUNTED = {"address": "cases of layers, plans and training passes", "thread": "rounds of eight threads"}
REPORTS = {"address": "AddressSanitizer: heap-buffer-overflow", "thread": "ThreadSanitizer: data race"}


def main() -> int:
    """Build and run what the arguments name; 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="make sanitize", description=__doc__)
    parser.add_argument("--sanitizer", action="append", choices=list(REPORTS))
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=200, help="of eight threads that share layers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="what was counted into results.json")
    options = parser.parse_args()
    work = {
        "address": ["cases", str(options.cases), str(options.seed)],
        "thread": ["threads", str(options.rounds)],
    }
    for sanitizer in options.sanitizer or REPORTS:
        driver = _build(sanitizer)
        if not _sees_a_fault(driver, REPORTS[sanitizer]):
            return 1
        print(f"{sanitizer}: ", end="", flush=True)
        done = subprocess.run([driver, *work[sanitizer]], env=_environment(), check=False)
        if done.returncode:
            print(f"{sanitizer}: failed, {driver} {' '.join(work[sanitizer])}", file=sys.stderr)
            return 1
        if options.write:
            row = {"counted": {COUNTED[sanitizer]: int(work[sanitizer][1])}, "failed": 0}
            record.keep("commands", {f"make sanitize, {sanitizer}": row})
    return 0


def _build(sanitizer: str) -> Path:
    folder = BUILD / sanitizer
    isas = "all" if sanitizer == "address" else "sse41"
    tools = Path(sys.executable).parent
    configure = [
        *(str(tools / "cmake"), "-S", str(HERE / "sanitize"), "-B", str(folder), "-G", "Ninja"),
        *(f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}", f"-DPython_EXECUTABLE={sys.executable}"),
        *(f"-DSANITIZER={sanitizer}", f"-DNINEFOLD_ISAS={isas}"),
    ]
    print(f"{sanitizer}: building in {folder}", flush=True)
    for command in (configure, [str(tools / "ninja"), "-C", str(folder)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stdout[-4000:] + done.stderr[-4000:])
    return folder / "driver"


def _sees_a_fault(driver: Path, report: str) -> bool:
    done = subprocess.run([driver, "fault"], capture_output=True, text=True, env=_environment(), check=False)
    if done.returncode and report in done.stderr:
        return True
    print(f"{driver} fault: must report {report!r}, said {done.stderr[-500:]!r}", file=sys.stderr)
    return False


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "OMP_WAIT_POLICY": "passive",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }


if __name__ == "__main__":
    sys.exit(main())
