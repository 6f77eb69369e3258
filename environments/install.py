"""pip with its progress shown: `install.py WHAT PIP-ARGUMENTS...` prints how far the compiler is.

What the compiler says goes to build/log.txt, and its end to the screen if the build fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

_STEP = re.compile(r"\[(\d+)/(\d+)\]")
_LOG = Path("build/log.txt")
_WIDTH = 30


def main(what: str, arguments: list[str]) -> int:
    """Run pip with `arguments`; returns its exit status."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--verbose", *arguments]
    _LOG.parent.mkdir(exist_ok=True)
    tail: deque[str] = deque(maxlen=40)
    show = _Progress(what)
    with (
        _LOG.open("w") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as pip,
    ):
        assert pip.stdout is not None
        for line in pip.stdout:
            log.write(line)
            tail.append(line)
            if step := _STEP.search(line):
                show.step(int(step[1]), int(step[2]))
    show.close(pip.returncode == 0)
    if pip.returncode != 0:
        sys.stdout.writelines(tail)
        print(f"all of it: {_LOG}")
    return pip.returncode


class _Progress:
    """One line, redrawn on a terminal; every tenth part of the way, a new one elsewhere."""

    def __init__(self, what: str) -> None:
        self.what, self.began, self.shown = what, time.monotonic(), 0
        self.redraw = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        print(f"{what} …", end="" if self.redraw else "\n", flush=True)

    def step(self, done: int, total: int) -> None:
        tenth = done * 10 // total
        if self.redraw:
            bar = "█" * (done * _WIDTH // total)
            print(f"\r{self.what} {bar:░<{_WIDTH}} {done}/{total} ", end="", flush=True)
        elif tenth > self.shown:
            self.shown = tenth
            print(f"  {done}/{total}, {time.monotonic() - self.began:.0f} s", flush=True)

    def close(self, well: bool) -> None:
        clear = "\r\033[K" if self.redraw else ""
        print(f"{clear}{self.what}: {'done' if well else 'failed'} in {time.monotonic() - self.began:.0f} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
