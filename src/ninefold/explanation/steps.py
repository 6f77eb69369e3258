"""One place of the output being computed, step by step, with the multiplications so far both ways.

`script/steps.js` makes the same list, and draws it.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import text
from .drawing import Scene
from .values import grouped

_MOST_TAPS, _MOST_ROWS = 9, 11


@dataclass(frozen=True, slots=True)
class Step:
    """What is said, and the multiplications so far: standard, separable."""

    says: str
    standard: int
    separable: int


def steps(scene: Scene) -> list[Step]:
    """From nothing to the whole layer; the last step has the costs of `ninefold.cost`."""
    M, N, Dk, Dg, m = (scene.numbers[name] for name in ("M", "N", "Dk", "Dg", "m"))
    taps = Dk * Dk
    found: list[Step] = []

    def add(phrase: str, standard: int, separable: int, **more: str) -> None:
        says = text.fill(scene.words[f"step_{phrase}"], scene.words, {**scene.values, **more})
        found.append(Step(says, standard, separable))

    add("start", 0, 0)
    for done in _groups(Dk):
        add("taps", done, m * done, done=str(done))
    if M > 1:
        add("second", 2 * taps, 2 * m * taps)
    if M > 2:
        add("rest", M * taps, M * m * taps)
    one, filtered = M * taps, M * m * taps
    add("first_standard", one, filtered)
    add("first", one, filtered + M * m)
    if N > 1:
        add("again", 2 * one, filtered + 2 * M * m)
    if N > 2:
        add("all", N * one, filtered + N * M * m)
    if Dg > 1:
        add("places", Dg * Dg * N * one, Dg * Dg * (filtered + N * M * m))
    return found


def rows(scene: Scene) -> list[tuple[str, str, str]]:
    """The same as a table's cells: HTML, and two counts."""
    return [
        (text.as_html(step.says), grouped(step.standard), grouped(step.separable)) for step in steps(scene)
    ]


def _groups(side: int) -> list[int]:
    # Tap by tap, row by row, or at once: no more steps than one has patience for.
    taps = side * side
    each = 1 if taps <= _MOST_TAPS else side if side <= _MOST_ROWS else taps
    return list(range(each, taps + 1, each))
