"""`make verify` in short, and what it says of a kernel that is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("ninefold._kernels", reason="the extension is not built")

ROOT = Path(__file__).parents[2]
VERIFY = ROOT / "verification" / "verify.py"


def verify(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(VERIFY), *arguments], capture_output=True, text=True, check=False, timeout=600
    )


def test_a_few_cases_of_each_operator_and_direction_hold() -> None:
    done = verify("--cases", "16")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6 * 3 - 2 + 1
    assert lines[-1].startswith("256 cases held")
    assert lines[-1].endswith("0 failed")


def test_a_case_follows_from_its_four_words() -> None:
    from drawn import DIRECTIONS, OPERATORS, draw

    for operator in OPERATORS:
        for direction in DIRECTIONS:
            assert draw(operator, direction, 3, 14) == draw(operator, direction, 3, 14)
    assert draw("conv2d", "forward", 3, 14) != draw("conv2d", "forward", 4, 14)
    case = draw("separable", "forward", 0, 5)
    assert case.line == ('make verify ARGS="--operator separable --direction forward --seed 0 --case 5"')
    done = verify(*case.line.partition('"')[2].rstrip('"').split())
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("held in 12 runs" if _sets() == 3 else "held in")


def _sets() -> int:
    from ninefold.ops import cpu

    return len(cpu.instruction_sets())


@pytest.fixture
def exact_case():
    from drawn import Case, Stage

    stages = (Stage(6, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 6, True, "relu"), Stage(4))
    return Case("separable", "forward", 0, 0, (2, 6, 5, 5), stages, residual=True)


def test_one_wrong_number_is_named(exact_case, monkeypatch) -> None:
    import operators
    from check import check

    right = operators.OPERATORS["separable"]
    assert check(exact_case).complaint == ""
    assert check(exact_case).exact

    def wrong(case, tensors):
        out = right(case, tensors)
        out[1, 2, 3, 4] += 1
        return out

    monkeypatch.setitem(operators.OPERATORS, "separable", wrong)
    assert "output: 1 of 200 wrong, the first at (1, 2, 3, 4)" in check(exact_case).complaint


def test_a_number_that_was_not_written_is_named(exact_case, monkeypatch) -> None:
    import operators
    from check import check

    monkeypatch.setitem(operators.OPERATORS, "separable", lambda case, tensors: torch.empty(case.shapes[-1]))
    assert "200 of 200 wrong, the first at (0, 0, 0, 0): nan" in check(exact_case).complaint


def test_runs_that_differ_are_named(exact_case, monkeypatch) -> None:
    import operators
    from check import check

    right, calls = operators.OPERATORS["separable"], []

    def unsteady(case, tensors):
        calls.append(case)
        return right(case, tensors) + 0.0 if len(calls) % 2 else right(case, tensors).neg().neg_().add_(1)

    monkeypatch.setitem(operators.OPERATORS, "separable", unsteady)
    assert "two runs differ in 200 numbers" in check(exact_case).complaint


READ_PAST_THE_END = """
import sys; sys.path.insert(0, {path!r})
import ctypes, memory
tensor = memory.tensor((3, 5))
assert tensor.isnan().all()
ctypes.string_at(tensor.data_ptr(), 60)
print("to the end", flush=True)
ctypes.string_at(tensor.data_ptr(), 61)
"""


def test_a_byte_past_the_end_is_a_fault() -> None:
    script = READ_PAST_THE_END.format(path=str(VERIFY.parent))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "to the end\n"
    assert done.returncode == -11


def test_a_child_that_dies_is_a_failure_and_the_next_case_runs(tmp_path, monkeypatch, capsys) -> None:
    import verify

    script = tmp_path / "dies.py"
    script.write_text(
        "import os, sys\n"
        "for line in sys.stdin:\n"
        "    for case in line.split()[3:]:\n"
        "        if case == '2': os.kill(os.getpid(), 11)\n"
        "        print('1 1 12 ', flush=True)\n"
    )
    monkeypatch.setattr(verify, "__file__", str(script))
    status = verify.main(["--operator", "pointwise", "--direction", "forward", "--cases", "5", "--jobs", "1"])
    said = capsys.readouterr().out
    assert status == 1
    assert "FAILED the process died; SIGSEGV" in said
    assert "--operator pointwise --direction forward --seed 0 --case 2" in said
    assert said.splitlines()[-1] == "5 cases held, 5 of them bit for bit; 60 runs; 1 failed"


def test_cases_that_die_only_together_are_a_failure(tmp_path, monkeypatch, capsys) -> None:
    import verify

    script = tmp_path / "dies.py"
    script.write_text(
        "import os, sys\n"
        "for line in sys.stdin:\n"
        "    cases = line.split()[3:]\n"
        "    if '2' in cases and len(cases) > 1: os.kill(os.getpid(), 11)\n"
        "    for case in cases: print('1 1 12 ')\n"
        "    sys.stdout.flush()\n"
    )
    monkeypatch.setattr(verify, "__file__", str(script))
    status = verify.main(["--operator", "pointwise", "--direction", "forward", "--cases", "5", "--jobs", "1"])
    said = capsys.readouterr().out
    assert status == 1
    assert "FAILED the process died; SIGSEGV, of cases 0 to 4 together, none alone" in said


def test_a_chain_is_compared_with_its_statistics_and_every_gradient() -> None:
    import operators
    import oracle
    from drawn import draw

    seen = set()
    for index in range(40):
        for direction in ("forward", "weight-gradient"):
            case = draw("chain", direction, 0, index)
            names = oracle.wanted(case)
            tensors, grad = operators.operands(case), operators.upstream(case)
            assert len(names) == len(operators.results(case, tensors, grad))
            seen |= {name.rstrip("0123456789") for name in names}
    assert seen == {"output", "mean", "variance", "weight", "bias", "gamma", "beta"}


def test_a_wrong_gradient_in_a_chain_is_named(monkeypatch) -> None:
    """The defect of a pair without batch-norm, put back: the image's gradient made from another image."""
    import operators
    from check import check
    from drawn import draw

    cases = (draw("chain", "input-gradient", 0, index) for index in range(500))
    case = next(c for c in cases if len(c.stages) == 2 and not any(s.normalisation for s in c.stages))
    right = operators.results

    def wrong(case, tensors, grad):
        first, *others = right(case, tensors, grad)
        return [first + tensors["x"], *others]

    assert check(case).complaint == ""
    monkeypatch.setattr(operators, "results", wrong)
    assert "gradient of x" in check(case).complaint


def test_a_case_of_zeros_is_mistrusted(exact_case, monkeypatch) -> None:
    import operators
    from check import check

    made = operators.operands

    def zeros(case):
        return {name: tensor.zero_() for name, tensor in made(case).items()}

    monkeypatch.setattr(operators, "operands", zeros)
    verdict = check(exact_case)
    assert verdict.complaint == ""
    assert not verdict.trusted


def test_gradients_of_the_oracle_are_autograds() -> None:
    import operators
    import oracle
    from drawn import OPERATORS, draw

    compared = 0
    for operator in OPERATORS:
        for direction in ("input-gradient", "weight-gradient"):
            for index in range(12):
                case = draw(operator, direction, 1, index)
                if operator == "inverted" or case.multiplications > 100_000:
                    continue
                tensors = {k: t.double() for k, t in operators.operands(case).items()}
                grad = operators.upstream(case).double()
                wanted = oracle.truth(case, tensors, grad)
                # PyTorch's hardsigmoid has its sixth in float32, for float64 too: hence 1e-7.
                for got, near in zip(operators.results(case, tensors, grad), wanted.results, strict=True):
                    torch.testing.assert_close(got.numpy(), near.value, rtol=1e-7, atol=1e-9)
                compared += 1
    assert compared > 50


def test_a_wide_bound_is_mistrusted(exact_case, monkeypatch) -> None:
    import oracle
    from check import check

    right = oracle.truth

    def loose(*words):
        truth = right(*words)
        truth.results[0].error += 0.2 * abs(truth.results[0].value).mean()
        return truth

    monkeypatch.setattr(oracle, "truth", loose)
    assert not check(exact_case).trusted


def test_one_case_needs_one_operator_and_direction() -> None:
    done = verify("--case", "3")
    assert done.returncode == 2
    assert "`--case` must come with one --operator and one --direction" in done.stderr
