"""Libraries take turns on a case each; what one computes is checked before its time counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import cases
from cases import Case
from contestants import Contestant, Failed
from libraries import LIBRARIES

TOLERANCE = 1e-4  # of the answer's range
_CALLS, _TURN = 40, 0.15  # calls in a turn; fewer where they take more seconds than this
_ROUNDS = 7, 40

# Who takes part, under what name: a library and what it runs.
Entries = Mapping[str, tuple[str, Case]]


@dataclass(frozen=True)
class Timed:
    """Seconds of each entry's turns, how far its result was off, and why an entry has no time."""

    turns: dict[str, list[float]]
    errors: dict[str, float]
    failed: dict[str, str]

    def seconds(self, name: str) -> float:
        """The median over the turns."""
        return median(self.turns[name])

    def factor(self, slow: str, fast: str) -> float:
        """How many times faster `fast` is: the median of the ratios turn by turn."""
        return median(a / b for a, b in zip(self.turns[slow], self.turns[fast], strict=True))

    def fastest(self, names: Iterable[str]) -> str | None:
        """The one of `names` with the smallest median, None where none was timed."""
        return min((name for name in names if name in self.turns), key=self.seconds, default=None)


def compete(entries: Entries, *, threads: int, seconds: float, ours: Iterable[str]) -> Timed:
    """Time the entries in turns, about `seconds` of each.

    Raises ArithmeticError where the result of one of `ours` is wrong, or is none.
    """
    failed: dict[str, str] = {}
    errors: dict[str, float] = {}
    for name, (library, case) in entries.items():
        row = LIBRARIES[library]
        if row.convert is not None:
            reason = cases.converted(case, row.file, row.package, row.convert)
            if reason:
                failed[name] = f"not converted ({reason})"
    with ExitStack() as stack:
        started: dict[str, Contestant] = {}
        for name, (library, case) in entries.items():
            if name not in failed:
                started[name] = Contestant(library, case, threads)
                stack.callback(started[name].close)
        runners = {}
        for name, contestant in started.items():
            got = contestant.answer()
            if isinstance(got, Failed):
                failed[name] = got.reason
                continue
            errors[name] = error = entries[name][1].error(got)
            if error < TOLERANCE:
                runners[name] = contestant
            else:
                failed[name] = f"off by {error:.1e} of the range"
        for name in ours:
            if name in failed:
                raise ArithmeticError(f"{entries[name][1].network}: {name}: {failed[name]}")
        turns = _take_turns(runners, seconds, failed)
    return Timed(turns, errors, failed)


def _take_turns(
    runners: dict[str, Contestant], seconds: float, failed: dict[str, str]
) -> dict[str, list[float]]:
    turns: dict[str, list[float]] = {name: [] for name in runners}
    calls = dict.fromkeys(runners, 1)
    spent, done = 0.0, 0
    # The first round only finds out how many calls make a turn.
    while done <= _ROUNDS[0] or (done <= _ROUNDS[1] and spent < seconds * len(turns)):
        for name in list(turns):
            taken = runners[name].turn(calls[name])
            if isinstance(taken, Failed):
                failed[name] = taken.reason
                del turns[name]
                continue
            spent += sum(taken)
            if done:
                turns[name].append(median(taken))
            calls[name] = max(1, min(_CALLS, round(_TURN / median(taken))))
        done += 1
    return turns
