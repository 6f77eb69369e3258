"""The instruction sets, one row each: what Halide compiles for, and the tiles that suit its registers.

A tile is what one micro-kernel keeps in registers: `pixels` × `channels` accumulators. The figures behind
the choices are in each operator's file. A new instruction set is a new row here, and its test in
`runtime/dispatch.cpp`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InstructionSet:
    """One instruction set: Halide's target, and the tile shapes of its kernels."""

    name: str  # what NINEFOLD_ISA calls it
    target: str  # Halide's name for it
    lanes: int  # float32 values in a vector register
    registers: int  # vector registers
    # Micro-tiles of the matrix kernels: output channels in a panel -> pixels at a time, tallest first. Every
    # list ends in 1, so that any number of pixels is a sum of tiles and none is computed twice.
    tiles: dict[int, tuple[int, ...]]
    # Micro-tiles of the pointwise weights' gradient: input channels -> output channels at a time, most first.
    weight_tiles: dict[int, tuple[int, ...]]
    # The standard convolution's, which are neighbouring columns: every panel has the same numbers of them.
    conv2d_tiles: dict[int, tuple[int, ...]]
    depthwise_columns: int  # neighbouring output pixels that share a depthwise kernel's loads,
    depthwise_wide_columns: int  # the same for few channels at stride 1; 0: no such kernel
    depthwise_rows: int  # in this many rows
    depthwise_vectors: int  # channel vectors in flight where one pixel is filtered at a time

    @property
    def features(self) -> str:
        """Halide's target string. 64-bit indices, for 32-bit ones cost depthwise 20 % in sign extensions."""
        return f"{self.target}-large_buffers-no_runtime"


_X86 = "x86-64-linux"

INSTRUCTION_SETS = {
    row.name: row
    for row in (
        # 32 registers. 12×32 reached 112 GFLOP/s of a 115 GFLOP/s peak on one Zen 4 core; 6×64 and 8×48 the
        # same, 24×16 only 80 at 512 channels. 14×32, of which 224-pixel networks' images are made, left whole
        # networks 1 to 2 % slower: 14 addresses do not fit the integer registers. The panel of 8, in half
        # registers, is for what is left of 24, 40 and 72 channels: 96→24 at 56×56 took 184 µs padded to 32.
        # Seven columns are for images of 14 and 7: 512→512 at 7×7 went from 82 to 100 % of the peak. Seven
        # pixels are for 49 of them: 192→1152 went from 92 to 97 %.
        # A convolution's panel of 8 is for first layers of 24 and 40 channels, which took 1.4 and 1.15 times
        # as long padded.
        InstructionSet(
            "avx512",
            f"{_X86}-avx512-avx512_skylake-avx2-avx-f16c-fma-sse41",
            lanes=16,
            registers=32,
            tiles={8: (12, 4, 1), 16: (12, 4, 1), 32: (12, 7, 4, 1)},
            weight_tiles={16: (12,), 32: (12,)},
            conv2d_tiles={8: (12, 7, 4, 1), 16: (12, 7, 4, 1), 32: (12, 7, 4, 1)},
            depthwise_columns=4,
            depthwise_wide_columns=7,
            depthwise_rows=2,
            depthwise_vectors=4,
        ),
        # 16 registers: 6×16 and 4×24 leave room for the panel's vectors and one broadcast.
        InstructionSet(
            "avx2",
            f"{_X86}-avx2-avx-f16c-fma-sse41",
            lanes=8,
            registers=16,
            tiles={8: (6, 2, 1), 16: (6, 2, 1), 24: (4, 1)},
            weight_tiles={8: (6,), 16: (6,)},
            conv2d_tiles={8: (6, 4, 2, 1), 16: (6, 4, 2, 1)},
            depthwise_columns=4,
            depthwise_wide_columns=0,
            depthwise_rows=2,
            depthwise_vectors=4,
        ),
        # No fused multiply-add: the product takes a register of its own.
        InstructionSet(
            "sse41",
            f"{_X86}-sse41",
            lanes=4,
            registers=16,
            tiles={8: (4, 1)},
            weight_tiles={4: (4, 1), 8: (4, 1)},
            conv2d_tiles={8: (4, 1)},
            depthwise_columns=4,
            depthwise_wide_columns=0,
            depthwise_rows=2,
            depthwise_vectors=4,
        ),
        # 32 registers of four floats, multiply-add by a lane: 8×12 keeps 24 accumulators.
        InstructionSet(
            "neon",
            "arm-64-linux",
            lanes=4,
            registers=32,
            tiles={4: (8, 1), 12: (8, 4, 1)},
            weight_tiles={4: (8, 4), 8: (8, 4)},
            conv2d_tiles={12: (8, 4, 1)},
            depthwise_columns=4,
            depthwise_wide_columns=0,
            depthwise_rows=2,
            depthwise_vectors=4,
        ),
    )
}
