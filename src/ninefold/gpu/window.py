"""A depthwise window as plain numbers: what the kernels must know of it when they are compiled."""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]


@dataclass(frozen=True)
class Window:
    """A depthwise convolution's window; padding is (left, right, top, bottom)."""

    kernel: Pair
    stride: Pair
    padding: Sides
    dilation: Pair

    @property
    def taps(self) -> int:
        """Products per output."""
        return self.kernel[0] * self.kernel[1]

    def output_size(self, height: int, width: int) -> Pair:
        """Rows and columns of the output."""
        left, right, top, bottom = self.padding
        return (
            (height + top + bottom - (self.kernel[0] - 1) * self.dilation[0] - 1) // self.stride[0] + 1,
            (width + left + right - (self.kernel[1] - 1) * self.dilation[1] - 1) // self.stride[1] + 1,
        )

    def constants(self, patch: Pair, *, backward: bool = False) -> dict[str, int]:
        """The arguments of `patch.sums` for patches of that many rows and columns.

        Output r of a patch takes, by its tap i, the value at position a from the patch's base where
        r·OUT + SIGN·(i·DILATION - BEFORE) = a·IN. Forward OUT is the stride, IN and SIGN are 1. For the
        input gradient, whose outputs are the convolution's inputs, OUT is 1, SIGN -1 and IN the stride.
        """
        made = {"TALL": self.kernel[0], "WIDE": self.kernel[1], "SIGN": -1 if backward else 1}
        for axis, name, before in ((0, "Y", self.padding[2]), (1, "X", self.padding[0])):
            stride, dilation = self.stride[axis], self.dilation[axis]
            out, into = (1, stride) if backward else (stride, 1)
            aims = [
                output * out + made["SIGN"] * (tap * dilation - before)
                for output in range(patch[axis])
                for tap in range(self.kernel[axis])
            ]
            met = [aim // into for aim in aims if aim % into == 0] or [0]
            made |= {
                f"OUT_{name}": out,
                f"IN_{name}": into,
                f"BEFORE_{name}": before,
                f"DILATION_{name}": dilation,
                f"FIRST_{name}": min(met),
                f"LAST_{name}": max(met) + 1,
                f"PATCH_{name}": patch[axis],
            }
        return made
