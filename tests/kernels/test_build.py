"""The list of kernels: within its budget, and compiled for machines other than this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "kernels" / "build.py"

pytest.importorskip("halide", reason="Halide, a build requirement, is not installed")


def build(*arguments: str) -> str:
    """Run one step of the build and return what it prints."""
    done = subprocess.run(
        [sys.executable, str(BUILD), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("isa", ["avx512", "avx2", "sse41", "neon"])
def test_an_instruction_set_has_about_sixty_kernels_at_most(isa: str) -> None:
    names = build("list", "--isas", isa).split()
    assert 20 < len(names) <= 66
    assert all(name.startswith(f"{isa}.") for name in names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "kernel",
    [
        "depthwise_3x3_s1",
        "depthwise_5x5_s2_border",
        "depthwise_wide",
        "pointwise_8x12",
        "conv2d_1x12",
        "winograd_before_s1",
        "winograd_after_s2",
        "epilogue_activation",
        "batchnorm_turn",
        "gradient_weight_5",
        "gradient_pointwise_8x8",
    ],
)
def test_aarch64_compiles(kernel: str, tmp_path: Path) -> None:
    said = build("kernel", "--name", f"neon.{kernel}", "-o", str(tmp_path))
    assert said.startswith(f"neon.{kernel}: ")
    header = (tmp_path / f"neon.{kernel}.o").read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64


def test_the_table_declares_every_kernel_once(tmp_path: Path) -> None:
    build("table", "--isas", "avx2,sse41", "-o", str(tmp_path))
    text = (tmp_path / "table.cpp").read_text()
    for name in build("list", "--isas", "avx2,sse41").split():
        symbol = "ninefold_" + name.replace(".", "_")
        assert text.count(f" {symbol};") == 1, name
        assert sum(text.count(f"{symbol}{end}") for end in ("}", ",")) == 1, name


def test_an_unknown_instruction_set_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, str(BUILD), "list", "--isas", "mmx"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert done.stderr == "`isas` must be all, native or of avx512, avx2, sse41, neon, got mmx\n"
