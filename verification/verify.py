"""`make verify`: random cases against the definitions, by seed; a line that reproduces each failure.

Cases run in child processes, because a byte read past an end kills the process that reads it: the parent
names the case and goes on behind it. A case is MISTRUSTED, and another takes its place in the count, when
nearly all of its results are zero, or when what it may be off by is not small beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from select import select

import record
from drawn import DIRECTIONS, OPERATORS, draw

_PATIENCE = 300  # seconds of processor time for an answer, or of none: the machine does other things too
_TOGETHER = 32  # cases that a child checks at a time
_NEWS = 5_000  # cases from one line about them to the next
_PROGRESS = Path(__file__).parents[1] / "build" / "verify"
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
    parser.add_argument(
        "--resume", action="store_true", help="go on where a run of these kernels was stopped"
    )
    parser.add_argument("--write", action="store_true", help="each count, when it is full, into results.json")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    alone = options.case is not None
    if alone and (len(options.operator or ()) != 1 or len(options.direction or ()) != 1):
        parser.error("`--case` must come with one --operator and one --direction")
    return options


def _watch(operator: str, direction: str, worker: Worker, options: argparse.Namespace) -> Tally:
    """Have the worker check cases until enough have held."""
    words = operator, direction, options.seed
    place = _PROGRESS / f"{operator}-{direction}-{options.seed}.json"
    tally, index = Tally(operator, direction), 0
    if options.resume:
        tally, index = _resumed(tally, place)
    began, before = time.monotonic(), tally.seconds
    while tally.held < options.cases and len(tally.failures) < options.most_failures:
        cases = range(index, index + min(_TOGETHER, options.cases - tally.held))
        for case, answer in zip(cases, _answers(worker, words, cases), strict=True):
            tally.runs += answer.runs
            if answer.complaint:
                tally.failures.append(answer.complaint)
                drawn = draw(*words, case)
                print(f"FAILED {answer.complaint}\n  {drawn}\n  {drawn.line}", flush=True)
            elif answer.trusted:
                tally.held += 1
                tally.exact += answer.exact
            else:
                tally.mistrusted += 1
        tally.seconds = before + time.monotonic() - began
        if options.resume:
            place.parent.mkdir(parents=True, exist_ok=True)
            kept = {"kernels": _kernels(), "index": cases.stop, "tally": asdict(tally)}
            place.with_suffix(".new").write_text(json.dumps(kept))
            place.with_suffix(".new").replace(place)
        if cases.stop // _NEWS > index // _NEWS:
            print(f"{operator:10} {direction:16} {tally.held:7,} held so far", file=sys.stderr, flush=True)
        index = cases.stop
    said = f"{tally.held:7,} held ({tally.exact:,} bit for bit), {tally.mistrusted:,} MISTRUSTED"
    print(
        f"{operator:10} {direction:16} {said}, {tally.runs:,} runs, {len(tally.failures)} failed, "
        f"{tally.seconds:.0f} s",
        flush=True,
    )
    if options.write:
        row = {name: getattr(tally, name) for name in ("held", "exact", "mistrusted", "runs", "seconds")}
        row |= {"failed": len(tally.failures), "seed": options.seed, "seconds": round(tally.seconds)}
        record.keep("verify", {f"{operator} {direction}": row})
    return tally


def _resumed(tally: Tally, place: Path) -> tuple[Tally, int]:
    """How far a run of these kernels came, and the case that follows."""
    if not place.exists():
        return tally, 0
    kept = json.loads(place.read_text())
    if kept["kernels"] != _kernels():
        return tally, 0
    return Tally(**kept["tally"]), kept["index"]


@cache
def _kernels() -> str:
    """What the cases run: a digest of the extension."""
    found = importlib.util.find_spec("ninefold._kernels")
    assert found is not None and found.origin is not None
    return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """What a child says of one case."""

    exact: bool
    trusted: bool
    runs: int
    complaint: str


def _answers(worker: Worker, words: tuple[str, str, int], cases: range) -> list[Answer]:
    """Ask for all at once; where that ends the child, for one after another."""
    found = worker.check(*words, *cases)
    if not isinstance(found, str):
        return found
    if len(cases) == 1:
        return [Answer(False, False, 0, found)]
    alone = [_answers(worker, words, range(case, case + 1))[0] for case in cases]
    if not any(answer.complaint for answer in alone):
        complaint = f"{found}, of cases {cases[0]} to {cases[-1]} together, none alone"
        alone[0] = replace(alone[0], complaint=complaint)
    return alone


class Worker:
    """A child process that checks cases, some a line, and is replaced when it dies."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[str] | None = None

    def check(self, operator: str, direction: str, seed: int, *cases: int) -> list[Answer] | str:
        """What the child says of each case, or how it ended."""
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
            print(operator, direction, seed, *cases, file=self.child.stdin, flush=True)
        began = last = _spent(self.child.pid)
        while not select([self.child.stdout], [], [], _PATIENCE)[0]:
            now = _spent(self.child.pid)
            if now == last or now - began > _PATIENCE:
                return f"no answer in {now - began:.0f} s of processor time; {self.stop()}"
            last = now
        answers = []
        for _ in cases:
            line = self.child.stdout.readline()
            if not line:
                return f"the process died; {self.stop()}"
            exact, trusted, runs, complaint = line.rstrip("\n").split(" ", 3)
            answers.append(Answer(exact == "1", trusted == "1", int(runs), complaint))
        return answers

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


def _spent(process: int) -> float:
    """Seconds of processor time that a process has had."""
    with open(f"/proc/{process}/stat") as file:
        ticks = file.read().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _environment() -> dict[str, str]:
    # Five threads on two cores: one that waits must sleep, or it takes the core of one that works.
    return {**os.environ, "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


def _serve() -> int:
    from check import check_all

    for line in sys.stdin:
        operator, direction, seed, *cases = line.split()
        verdicts = check_all([draw(operator, direction, int(seed), int(case)) for case in cases])
        for each in verdicts:
            print(f"{each.exact:d} {each.trusted:d} {each.runs} {each.complaint}")
        sys.stdout.flush()
    return 0


def _one(options: argparse.Namespace) -> int:
    from check import check

    case = draw(options.operator[0], options.direction[0], options.seed, options.case)
    print(case, flush=True)
    verdict = check(case)
    trust = "" if verdict.trusted else ", MISTRUSTED: nearly all results are zero, or the bound is wide"
    print(f"FAILED {verdict.complaint}" if verdict.complaint else f"held in {verdict.runs} runs{trust}")
    return 1 if verdict.complaint else 0


if __name__ == "__main__":
    sys.exit(main())
