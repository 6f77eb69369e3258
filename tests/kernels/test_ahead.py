"""Prefetches go behind the loads of weights in the innermost loops, and nowhere else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"
sys.path.insert(0, str(KERNELS))

import ahead  # noqa: E402

ASSEMBLY = """
	vmovups	(%rcx,%rax), %zmm2
.LBB0_1:                                # %"for m"
	vbroadcastss	(%rbx), %zmm18
	vmovups	-64(%rbp,%r11,4), %zmm19
	vmovups	(%rbp,%r11,4), %zmm20
	vfmadd231ps	%zmm19, %zmm18, %zmm17
	jne	.LBB0_1
.LBB0_2:
	vmovups	(%rbp), %zmm20
	jne	.LBB0_2
	vmovups	%zmm17, (%rdx)
"""


def test_each_load_of_the_multiplying_loop_asks_for_what_lies_further() -> None:
    edited = ahead.with_prefetches(ASSEMBLY).split("\n")
    added = [line for line in edited if "prefetcht1" in line]
    assert added == [
        f"\tprefetcht1\t{ahead.DISTANCE - 64}(%rbp,%r11,4)",
        f"\tprefetcht1\t{ahead.DISTANCE}(%rbp,%r11,4)",
    ]
    assert [line for line in edited if "prefetcht1" not in line] == ASSEMBLY.split("\n")


def test_operands_of_the_multiply_adds_may_be_what_is_asked_for() -> None:
    reading = ASSEMBLY.replace("vfmadd231ps\t%zmm19", "vfmadd231ps\t8(%rdi,%rsi)")
    edited = ahead.with_prefetches(reading, ahead._OPERAND).split("\n")
    added = [line for line in edited if "prefetcht1" in line]
    assert added == [f"\tprefetcht1\t{ahead.DISTANCE + 8}(%rdi,%rsi)"]
    with pytest.raises(ValueError, match="the assembly must have a loop with such loads, got none"):
        ahead.with_prefetches(ASSEMBLY, ahead._OPERAND)


def test_a_loop_in_other_words_is_an_error() -> None:
    with pytest.raises(ValueError, match="the assembly must have a loop that loads vectors"):
        ahead.with_prefetches(ASSEMBLY.replace("vfmadd231ps", "vmulps"))


LOOP = """
	.section	.text.ninefold_avx2_pointwise_6x16,"ax",@progbits
ninefold_avx2_pointwise_6x16:
	xorl	%r9d, %r9d
	.p2align	4
.LBB0_7:                                # %"for m"
	vbroadcastss	(%rbx), %ymm8
	vmovups	-64(%rbp,%r11,4), %ymm9
	vmovups	(%rbp,%r11,4), %ymm10
	vfmadd231ps	%ymm9, %ymm8, %ymm7
	addq	$32, %r11
	cmpq	%r11, %r8
	jne	.LBB0_7
	vmovups	%ymm7, (%rdx)
	.section	.rodata
"""


def test_a_product_has_its_loop_twice_and_the_second_asks_for_two_streams() -> None:
    edited = ahead.with_streams(LOOP)
    before, copy = edited.split("\t.section\t.rodata\n")
    # The loop as it was, between the choice before it and the place where the other comes back.
    kept = LOOP.split("\t.section\t.rodata\n")[0]
    added = re.sub(r"\tpushq.*?\tpopq\t%\w+\n", "", before, flags=re.S).replace(".Lstreamed_0:\n", "")
    assert added == kept
    assert copy.count("prefetcht1") == 2 and "%r9" in copy and "%r10" in copy
    assert copy.strip().startswith(".section\t.text.ninefold_avx2_pointwise_6x16")
    assert copy.count("pushq") == 3 and copy.count("popq") == 4


def test_one_register_to_spare_is_enough_for_one_stream() -> None:
    taken = "".join(f"\tleaq\t(%r{k}), %rcx\n" for k in range(9, 16))
    edited = ahead.with_streams(LOOP.replace("\tvbroadcastss", f"{taken}\tvbroadcastss"))
    copy = edited.split("\t.section\t.rodata\n")[1]
    assert copy.count("prefetcht1") == 1 and "prefetcht1\t(%rdx)\n\taddq\t0(%rsp), %rdx" in copy
    assert copy.count("pushq") == 1 and copy.count("popq") == 2


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("xorl\t%r9d, %r9d", "jmp\t.LBB0_7"),
        ("vbroadcastss\t(%rbx)", "vbroadcastss\t8(%rsp)"),
        ("addq\t$32, %r11", "addq\t%r12, %r11\n\taddq\t%r13d, %r9d\n\taddq\t%r14, %r10\n\taddq\t%r15, %rdx"),
        ("\taddq\t$32, %r11\n\tcmpq\t%r11, %r8\n", ""),
    ],
)
def test_a_loop_that_streams_cannot_be_put_into_is_an_error(was: str, becomes: str) -> None:
    assert was in LOOP
    with pytest.raises(ValueError, match="a loop must be closed, with a register to spare"):
        ahead.with_streams(LOOP.replace(was, becomes))


@pytest.mark.parametrize(
    ("target", "kernel", "suits"),
    [
        ("x86-64-linux-avx2-fma", "pointwise_6x16", True),
        ("x86-64-linux-avx2-fma", "conv2d_12x32", True),
        ("x86-64-linux-avx2-fma", "pointwise_1x16", False),
        ("x86-64-linux-avx2-fma", "depthwise_3x3_s1", False),
        ("x86-64-linux-sse41", "pointwise_4x8", False),
        ("arm-64-linux", "pointwise_8x12", False),
    ],
)
def test_kernels_that_stream_weights_are_the_ones(target: str, kernel: str, suits: bool) -> None:
    assert ahead.suits(target, kernel) is suits


def test_hints_become_those_of_the_second_cache() -> None:
    edit = ahead.edit("x86-64-linux-sse41", "batchnorm_turn")
    assert edit is not None and edit("\tprefetchnta\t8192(%rdi)") == "\tprefetcht1\t8192(%rdi)"
    with pytest.raises(ValueError, match="must have a PREFETCHNTA, got none"):
        edit("\tmovups\t(%rdi), %xmm0")
    assert ahead.edit("x86-64-linux-avx2-fma", "batchnorm_statistics") is None
    assert ahead.edit("arm-64-linux", "batchnorm_turn") is None


@pytest.mark.parametrize(
    "name",
    [
        *("avx512.pointwise_12x32", "avx2.pointwise_4x24", "avx2.conv2d_6x16"),
        *("avx512.gradient_pointwise_12x32", "avx2.gradient_pointwise_6x8"),
        *("avx512.pointwise_few", "avx2.pointwise_few"),
        *("avx512.batchnorm_apply", "sse41.batchnorm_turn", "avx512.batchnorm_sums"),
    ],
)
def test_real_kernels_are_assembled_with_prefetches(name: str, tmp_path: Path) -> None:
    pytest.importorskip("halide", reason="Halide, a build requirement, is not installed")
    command = [sys.executable, str(KERNELS / "build.py"), "kernel", "--name", name, "-o", str(tmp_path)]
    subprocess.run([*command, "--assembler", "c++"], check=True, capture_output=True)
    assert "prefetcht1" in (tmp_path / f"{name}.s").read_text()
    assert (tmp_path / f"{name}.o").read_bytes()[:4] == b"\x7fELF"
