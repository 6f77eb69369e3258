"""Cases against the oracle: every instruction set, on one, two and five threads; one of the sets twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

import memory
import operators
import oracle
from drawn import Case
from ninefold.ops import cpu

THREADS = (1, 2, 5)
_TRUST = 0.1  # a case nearly all of whose results are zero proves little
_LOOSE = 0.1  # so does one whose bound is wide, beside the numbers that it bounds
_STRUCTURAL = 16  # of so few numbers none is asked to be anything


@dataclass(frozen=True)
class Verdict:
    """What became of a case: "" where it holds, the complaint where it does not."""

    complaint: str
    exact: bool
    trusted: bool
    runs: int


def check(case: Case) -> Verdict:
    """Run `case` in every way and compare."""
    return check_all([case])[0]


def check_all(cases: Sequence[Case]) -> list[Verdict]:
    """Run each of `cases` in every way and compare.

    Together they take half the time: a change of the number of threads makes and ends threads.
    """
    works, before = [_Work(case) for case in cases], torch.get_num_threads()
    try:
        for threads in THREADS:
            torch.set_num_threads(threads)
            for work in works:
                work.run(threads)
    finally:
        torch.set_num_threads(before)
    return [work.verdict() for work in works]


@dataclass
class _Work:
    case: Case
    complaint: str = ""
    runs: int = 0
    wanted: oracle.Truth = field(init=False)

    def __post_init__(self) -> None:
        self.tensors, self.grad = operators.operands(self.case), operators.upstream(self.case)
        self.wanted = oracle.truth(self.case, self.tensors, self.grad)

    def run(self, threads: int) -> None:
        """Run on each instruction set, until something is wrong."""
        sets = cpu.instruction_sets()
        for k, isa in enumerate(sets):
            if self.complaint:
                return
            times = 2 if k == self.case.index % len(sets) else 1
            complaint = ""
            try:
                with cpu.forced(isa), memory.guarded():
                    got = [operators.results(self.case, self.tensors, self.grad) for _ in range(times)]
            except Exception as error:
                complaint = " ".join(f"{type(error).__name__}: {error},".split())
            self.runs += times
            complaint = complaint or _compare(self.case, got[0], got[-1], self.wanted)
            if complaint:
                self.complaint = f"{complaint} on {isa}, {threads} thread{'s' * (threads > 1)}"

    def verdict(self) -> Verdict:
        """What became of it, and whether it says anything."""
        results = [near for near in self.wanted.results if near.value.size > _STRUCTURAL]
        alive = all(np.count_nonzero(near.value) / near.value.size >= _TRUST for near in results)
        tight = all(np.median(near.error) <= _LOOSE * np.abs(near.value).mean() for near in results[:1])
        exact = all(not near.error.any() for near in self.wanted.results)
        return Verdict(self.complaint, exact, alive and tight, self.runs)


def _compare(case: Case, got: list[torch.Tensor], again: list[torch.Tensor], wanted: oracle.Truth) -> str:
    names = oracle.wanted(case)
    for name, ours, repeated, near in zip(names, got, again, wanted.results, strict=True):
        what = name if case.direction == "forward" else f"gradient of {name}"
        if tuple(ours.shape) != near.value.shape:
            return f"{what}: shape {tuple(ours.shape)}, not {near.value.shape},"
        if not torch.equal(ours.view(torch.int32), repeated.view(torch.int32)):
            return f"{what}: two runs differ in {int((ours != repeated).sum())} numbers"
        off = np.abs(ours.numpy().astype(np.float64) - near.value)
        wrong = ~(off <= near.error)  # NaN too
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            return (
                f"{what}: {int(wrong.sum())} of {wrong.size} wrong, the first at {at}: "
                f"{ours[at].item():.9g}, not {near.value[at]:.9g} ± {near.error[at]:.2g},"
            )
    return ""
