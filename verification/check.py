"""One case against the oracle: every instruction set, on one, two and five threads; one of the sets twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

import memory
import operators
import oracle
from drawn import Case
from ninefold.ops import cpu

THREADS = (1, 2, 5)
_TRUST = 0.1  # a case nearly all of whose results are zero proves little
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
    tensors, grad = operators.operands(case), operators.upstream(case)
    wanted = oracle.truth(case, tensors, grad)
    exact = all(not near.error.any() for near in wanted.results)
    alive = [np.count_nonzero(near.value) / near.value.size for near in wanted.results]
    sizes = [near.value.size for near in wanted.results]
    trusted = all(share >= _TRUST or n <= _STRUCTURAL for share, n in zip(alive, sizes, strict=True))
    runs, before = 0, torch.get_num_threads()
    try:
        sets = cpu.instruction_sets()
        for k, isa in enumerate(sets):
            times = 2 if k == case.index % len(sets) else 1
            with cpu.forced(isa), memory.guarded():
                for threads in THREADS:
                    torch.set_num_threads(threads)
                    where = f"on {isa}, {threads} thread{'s' * (threads > 1)}"
                    got = [operators.results(case, tensors, grad) for _ in range(times)]
                    runs += times
                    complaint = _compare(case, got[0], got[-1], wanted)
                    if complaint:
                        return Verdict(f"{complaint} {where}", exact, trusted, runs)
    finally:
        torch.set_num_threads(before)
    return Verdict("", exact, trusted, runs)


def _compare(case: Case, got: list[torch.Tensor], again: list[torch.Tensor], wanted: oracle.Truth) -> str:
    for index, (ours, repeated, near) in enumerate(zip(got, again, wanted.results, strict=True)):
        what = "output" if case.direction == "forward" else f"gradient of {oracle.wanted(case)[index]}"
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
