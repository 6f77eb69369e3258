"""How a kernel is started: block sizes as plain data, and one door for eager calls and for traced ones."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, order=True)
class Config:
    """Block sizes of one kernel; the fields that it does not know stay at 1."""

    patch: tuple[int, int] = (1, 1)  # outputs of a lane: rows, columns
    lanes: tuple[int, int] = (1, 1)  # patches of a program: rows, columns
    pixels: int = 1
    outputs: int = 1
    channels: int = 1
    warps: int = 4
    stages: int = 3

    def __str__(self) -> str:
        """A name of one line, for what was measured."""
        sizes = f"p{self.pixels} n{self.outputs} c{self.channels}"
        pairs = "x".join(map(str, self.patch)), "x".join(map(str, self.lanes))
        return f"{' '.join(pairs)} {sizes} w{self.warps} s{self.stages}"


def run(kernel: Any, grid: tuple[int, ...], *args: Any, config: Config, **constants: Any) -> None:
    """Start `kernel`. Under a trace (fake tensors) the graph takes it, so that compilers see through."""
    named = {**constants, "num_warps": config.warps, "num_stages": config.stages}
    if any(isinstance(arg, Tensor) and type(arg) not in _PLAIN for arg in args):
        torch.library.wrap_triton(kernel)[grid](*args, **named)
        return
    device = next(arg.device for arg in args if isinstance(arg, Tensor))
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        # Triton starts kernels on the current device, wherever their tensors lie.
        with torch.cuda.device(device):
            kernel[grid](*args, **named)
    else:
        kernel[grid](*args, **named)


# What differs from layer to layer and shall not compile a kernel anew; DIVISOR says what a row divides by.
# The depthwise kernels know their channels nevertheless (`patch.py`).
EXTENTS = [
    *("height", "width", "out_height", "out_width", "channels", "outputs", "pixels"),
    *("tiles_y", "tiles_x", "tiles", "share"),
]
_PLAIN = (Tensor, torch.nn.Parameter)


def image(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Room for an image (batch, C, H, W), channels-last, of the dtype and device of another."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def tiles(batch: int, size: tuple[int, int], config: Config) -> tuple[int, int, int]:
    """Tiles of lanes × patches down an image of `size`, across it, and over the whole batch."""
    down = blocks(size[0], config.lanes[0] * config.patch[0])
    across = blocks(size[1], config.lanes[1] * config.patch[1])
    return down, across, batch * down * across


def divisor(channels: int) -> int:
    """The largest power of two up to 16 that divides a row of channels: what makes loads wide."""
    return next(step for step in (16, 8, 4, 2, 1) if channels % step == 0)


def blocks(extent: int, block: int) -> int:
    """How many blocks cover an extent."""
    return -(-extent // block)


def power(extent: int, least: int, most: int) -> int:
    """The smallest power of two that covers an extent, within bounds."""
    return min(max(1 << (extent - 1).bit_length(), least), most)


def precision() -> str:
    """How `tl.dot` multiplies float32: as PyTorch's convolutions are told to."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "emulated"
    return "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"


def paired(x: Tensor) -> bool:
    """Whether a thread that holds row p of `tl.dot`'s result for such an image holds row p + 8 too.

    So matrix units leave it, but those of capability 10, in whose memory a thread has one row. Float32 that
    is not to be TF32 is multiplied without them, and a thread has rows that lie side by side.
    """
    if x.dtype is torch.float32 and precision() == "ieee":
        return False
    return x.device.type != "cuda" or torch.cuda.get_device_capability(x.device)[0] in (8, 9, 12)
