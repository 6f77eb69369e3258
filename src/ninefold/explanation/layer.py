"""The layer that is explained: its numbers, checked, from the command line or from a module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ninefold import shape

# What can be drawn and read: longer numbers would not fit beside the pictures.
LARGEST = {
    "in_channels": 16384,
    "out_channels": 16384,
    "kernel_size": 31,
    "output_size": 1024,
    "stride": 16,
    "multiplier": 16,
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution with square kernels and images: M, N, Dk, Dg, stride, padding, depth multiplier.

    `padding` is pixels per side, "valid" for none, or "same" for an input of stride · Dg pixels a side.
    Raises TypeError for what is not an integer and ValueError for what cannot be, or cannot be drawn.
    """

    in_channels: int
    out_channels: int
    kernel_size: int
    output_size: int
    stride: int = 1
    padding: int | str = "same"
    multiplier: int = 1

    def __post_init__(self) -> None:
        for name, largest in LARGEST.items():
            number = _square(name, getattr(self, name))
            if number > largest:
                raise ValueError(f"`{name}` must be at most {largest} to be drawn, got {number}")
            object.__setattr__(self, name, number)
        object.__setattr__(self, "padding", _padding(self.padding))
        if self.input_size < 1:
            raise ValueError(
                f"`padding` must leave an input of at least one pixel: it is too wide for a kernel of "
                f"{self.kernel_size} and an output of {self.output_size}, got {self.padding}"
            )

    @property
    def input_size(self) -> int:
        """Df, the input's height and width: the largest that gives this output."""
        if self.padding == "same":
            return self.stride * self.output_size
        sides = 0 if self.padding == "valid" else 2 * int(self.padding)
        return self.stride * self.output_size + self.kernel_size - 1 - sides


def of_module(module: Any, output_size: Any) -> Layer:
    """Read the numbers off a module: an `nn.Conv2d` or a `SeparableConv2d`, or what looks like one.

    Raises TypeError for what is neither, ValueError for groups, dilation, and what is not square.
    """
    filters = getattr(module, "depthwise", module)
    combines = getattr(module, "pointwise", module)
    try:
        numbers = {
            "in_channels": filters.in_channels,
            "out_channels": combines.out_channels,
            "kernel_size": filters.kernel_size,
            "stride": filters.stride,
        }
        padding = filters.padding
    except AttributeError:
        raise TypeError(
            "`layer` must be a number of input channels or a convolution such as nn.Conv2d, "
            f"got {type(module).__name__}"
        ) from None
    if filters is module and getattr(module, "groups", 1) != 1:
        raise ValueError(
            "`layer` must be a standard convolution, to be compared with a separable one, "
            f"got groups={module.groups}"
        )
    if _square("dilation", getattr(filters, "dilation", 1)) != 1:
        raise ValueError(f"`layer` must have no dilation to be drawn, got dilation={filters.dilation}")
    multiplier = getattr(filters, "multiplier", 1)
    return Layer(**numbers, output_size=output_size, padding=padding, multiplier=multiplier)


def _square(name: str, value: Any) -> int:
    if name.endswith("channels") or name == "multiplier":
        return shape.integer(name, value)
    if not isinstance(value, tuple | list):
        return shape.integer(name, value)
    height, width = shape.pair(name, value)
    if height != width:
        raise ValueError(f"`{name}` must be square to be drawn, got {height}×{width}")
    return height


def _padding(value: Any) -> int | str:
    if isinstance(value, str):
        name = {"same_upper": "same"}.get(value, value)
        if name not in ("same", "valid"):
            raise ValueError(f"`padding` must be a number of pixels, 'same' or 'valid', got {value!r}")
        return name
    if isinstance(value, tuple | list):
        if len(set(value)) != 1:
            raise ValueError(f"`padding` must be the same on all sides to be drawn, got {tuple(value)}")
        value = value[0]
    return shape.integer("padding", value, minimum=0)
