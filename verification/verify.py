"""`make verify`: random cases against the definitions, by seed; a line that reproduces each failure.

Cases run in child processes, because a byte read past an end kills the process that reads it: the parent
names the case and goes on behind it. A case is MISTRUSTED, and another takes its place in the count, when
nearly all of its results are zero.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from select import select

from drawn import DIRECTIONS, OPERATORS, draw

_PATIENCE = 300  # seconds for one case, on a machine that does other things too
_WITHOUT_GRADIENTS = {"inverted"}  # a packed layer: its weights are frozen


@dataclass
class Tally:
    """What became of the cases of one operator and direction."""

    operator: str
    direction: str
    held: int = 0
    exact: int = 0
    mistrusted: int = 0
    runs: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    """Run what the arguments ask for; 0 if everything held."""
    options = _parse(arguments)
    if options.child:
        return _serve()
    if options.case is not None:
        return _one(options)
    kinds = [
        (operator, direction)
        for operator in options.operator or OPERATORS
        for direction in options.direction or DIRECTIONS
        if direction == "forward" or operator not in _WITHOUT_GRADIENTS
    ]
    workers = [Worker() for _ in range(min(options.jobs, len(kinds)))]
    free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for worker in workers:
        free.put(worker)

    def work(kind: tuple[str, str]) -> Tally:
        mine = free.get()
        try:
            return _watch(*kind, mine, options)
        finally:
            free.put(mine)

    try:
        with ThreadPoolExecutor(len(workers)) as pool:
            tallies = list(pool.map(work, kinds))
    finally:
        for worker in workers:
            worker.stop()
    held, runs = sum(t.held for t in tallies), sum(t.runs for t in tallies)
    failures = sum(len(t.failures) for t in tallies)
    exact = sum(t.exact for t in tallies)
    print(f"{held:,} cases held, {exact:,} of them bit for bit; {runs:,} runs; {failures:,} failed")
    return 1 if failures else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make verify", description=__doc__)
    parser.add_argument("--operator", action="append", choices=list(OPERATORS))
    parser.add_argument("--direction", action="append", choices=DIRECTIONS)
    parser.add_argument("--cases", type=int, default=20_000, help="of each operator and direction")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this one alone, of one operator and direction")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--most-failures", type=int, default=20, help="after so many, give up on an operator")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    alone = options.case is not None
    if alone and (len(options.operator or ()) != 1 or len(options.direction or ()) != 1):
        parser.error("`--case` must come with one --operator and one --direction")
    return options


def _watch(operator: str, direction: str, worker: Worker, options: argparse.Namespace) -> Tally:
    """Have the worker check cases until enough have held."""
    tally, began, index = Tally(operator, direction), time.monotonic(), 0
    while tally.held < options.cases and len(tally.failures) < options.most_failures:
        exact, trusted, runs, complaint = worker.check(operator, direction, options.seed, index)
        tally.runs += runs
        if complaint:
            tally.failures.append(complaint)
            case = draw(operator, direction, options.seed, index)
            print(f"FAILED {complaint}\n  {case}\n  {case.line}", flush=True)
        elif trusted:
            tally.held += 1
            tally.exact += exact
        else:
            tally.mistrusted += 1
        index += 1
    tally.seconds = time.monotonic() - began
    words = f"{tally.held:7,} held ({tally.exact:,} bit for bit), {tally.mistrusted:,} MISTRUSTED"
    print(
        f"{operator:10} {direction:16} {words}, {tally.runs:,} runs, {len(tally.failures)} failed, "
        f"{tally.seconds:.0f} s",
        flush=True,
    )
    return tally


class Worker:
    """A child process that checks cases, one a line, and is replaced when it dies."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[str] | None = None

    def check(self, *words: str | int) -> tuple[int, int, int, str]:
        """Whether the case was exact, whether it is trusted, how often it ran, and the complaint if any."""
        if self.child is None:
            self.child = subprocess.Popen(
                [sys.executable, __file__, "--child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=_environment(),
            )
        assert self.child.stdin is not None and self.child.stdout is not None
        with suppress(BrokenPipeError):
            print(*words, file=self.child.stdin, flush=True)
        if not select([self.child.stdout], [], [], _PATIENCE)[0]:
            return 0, 0, 0, f"no answer in {_PATIENCE} s; {self.stop()}"
        line = self.child.stdout.readline()
        if not line:
            return 0, 0, 0, f"the process died; {self.stop()}"
        exact, trusted, runs, complaint = line.rstrip("\n").split(" ", 3)
        return int(exact), int(trusted), int(runs), complaint

    def stop(self) -> str:
        """End the child; returns how it ended and the last it said."""
        if self.child is None:
            return ""
        child, self.child = self.child, None
        with suppress(subprocess.TimeoutExpired):
            child.wait(1)
        child.kill()
        _, errors = child.communicate()
        status = child.returncode
        ended = signal.Signals(-status).name if status < 0 else f"exit {status}"
        return " ".join([ended, *errors.splitlines()[-1:]])


def _environment() -> dict[str, str]:
    # Five threads on two cores: one that waits must sleep, or it takes the core of one that works.
    return {**os.environ, "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


def _serve() -> int:
    from check import check

    for line in sys.stdin:
        operator, direction, seed, index = line.split()
        verdict = check(draw(operator, direction, int(seed), int(index)))
        print(f"{verdict.exact:d} {verdict.trusted:d} {verdict.runs} {verdict.complaint}", flush=True)
    return 0


def _one(options: argparse.Namespace) -> int:
    from check import check

    case = draw(options.operator[0], options.direction[0], options.seed, options.case)
    print(case, flush=True)
    verdict = check(case)
    trust = "" if verdict.trusted else ", MISTRUSTED: most results are zero"
    print(f"FAILED {verdict.complaint}" if verdict.complaint else f"held in {verdict.runs} runs{trust}")
    return 1 if verdict.complaint else 0


if __name__ == "__main__":
    sys.exit(main())
