"""What a convolution costs, exactly: multiplications and parameters, standard and depthwise separable.

With M input channels, N output channels, a kernel of Dk × Dk and an output of Dg × Dg, one image:

    standard                        N · Dg² · Dk² · M
    separable                       M · Dg² · Dk²  +  N · Dg² · M
    separable / standard            1/N + 1/Dk²

Sizes are an int or a (height, width) pair, and Dg is the output's: a stride shows only there. A depth
multiplier widens the depthwise stage. Biases, batch-norm and additions are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ninefold.shape import ConvShape, integer, numel, pair


@dataclass(frozen=True, slots=True)
class Cost:
    """Multiplications, parameters and the output, (height, width, channels), for one image.

    Costs add up, in the order in which the stages run: the sum has the last one's output.
    """

    multiplications: int
    parameters: int
    output: tuple[int, ...]

    def __add__(self, other: Cost) -> Cost:
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(
            self.multiplications + other.multiplications, self.parameters + other.parameters, other.output
        )

    def __radd__(self, other: object) -> Cost:
        # `sum()` starts from 0.
        return self if other == 0 else NotImplemented


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same layer as one standard and as one separable convolution."""

    standard: Cost
    separable: Cost

    @property
    def ratio(self) -> Fraction:
        """Multiplications, separable / standard."""
        return Fraction(self.separable.multiplications, self.standard.multiplications)

    @property
    def parameter_ratio(self) -> Fraction:
        """Parameters, separable / standard."""
        return Fraction(self.separable.parameters, self.standard.parameters)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: counts, or in the last line the ratios, which have no output."""

    name: str
    output: tuple[int, ...] | None
    multiplications: int | Fraction
    parameters: int | Fraction


def one_position(in_channels: int, kernel_size: Any) -> Cost:
    """One standard kernel at one position: Dk²·M multiplications make a single number."""
    weights = numel(pair("kernel_size", kernel_size)) * integer("in_channels", in_channels)
    return Cost(weights, weights, (1, 1, 1))


def one_kernel(in_channels: int, kernel_size: Any, output_size: Any) -> Cost:
    """One standard kernel over the whole output: Dg²·Dk²·M multiplications, Dk²·M parameters."""
    return standard(in_channels, 1, kernel_size, output_size)


def standard(in_channels: int, out_channels: int, kernel_size: Any, output_size: Any) -> Cost:
    """N kernels Dk×Dk×M: N·Dg²·Dk²·M multiplications, N·Dk²·M parameters.

    Raises TypeError for what is not an integer and ValueError for one below 1, as all functions here.
    """
    kernels = integer("out_channels", out_channels)
    position = one_position(in_channels, kernel_size)
    height, width = pair("output_size", output_size)
    return Cost(
        kernels * height * width * position.multiplications,
        kernels * position.parameters,
        (height, width, kernels),
    )


def depthwise(channels: int, kernel_size: Any, output_size: Any, *, multiplier: int = 1) -> Cost:
    """M kernels Dk×Dk×1, `multiplier` times: M·Dg²·Dk² multiplications, M·Dk² parameters."""
    kernels = integer("channels", channels) * integer("multiplier", multiplier)
    return standard(1, kernels, kernel_size, output_size)


def pointwise(in_channels: int, out_channels: int, output_size: Any) -> Cost:
    """N kernels 1×1×M: N·Dg²·M multiplications, N·M parameters."""
    return standard(in_channels, out_channels, 1, output_size)


def separable(
    in_channels: int, out_channels: int, kernel_size: Any, output_size: Any, *, multiplier: int = 1
) -> Cost:
    """Depthwise, then pointwise: M·Dg²·(Dk² + N) multiplications, M·(Dk² + N) parameters, by `multiplier`."""
    first = depthwise(integer("in_channels", in_channels), kernel_size, output_size, multiplier=multiplier)
    return first + pointwise(in_channels * multiplier, out_channels, output_size)


def compare(
    in_channels: int, out_channels: int, kernel_size: Any, output_size: Any, *, multiplier: int = 1
) -> Comparison:
    """The layer both ways; the ratio is multiplier · (1/N + 1/Dk²), whatever M and Dg are."""
    return Comparison(
        standard(in_channels, out_channels, kernel_size, output_size),
        separable(in_channels, out_channels, kernel_size, output_size, multiplier=multiplier),
    )


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: Sequence[int],
    output_size: Sequence[int],
    *,
    groups: int = 1,
    transposed_from: Sequence[int] | None = None,
) -> Cost:
    """Any convolution, in as many dimensions as `kernel_size` has: positions · ∏Dk · M · N / groups.

    The positions are those of the output; for a transposed convolution those of its input, `transposed_from`,
    for there each input number meets a whole kernel. A stride shows in the sizes; a dilation costs nothing.
    Raises TypeError and ValueError, as all functions here, and ValueError for groups that do not divide both
    channels or sizes of different dimensions.
    """
    inputs, outputs = integer("in_channels", in_channels), integer("out_channels", out_channels)
    for kind, channels in (("input", inputs), ("output", outputs)):
        if channels % integer("groups", groups) != 0:
            raise ValueError(f"`groups` must divide the {channels} {kind} channels, got {groups}")
    sizes = {"kernel_size": kernel_size, "output_size": output_size, "transposed_from": transposed_from}
    checked = {
        name: tuple(integer(name, each) for each in size) for name, size in sizes.items() if size is not None
    }
    for name, size in checked.items():
        if len(size) != len(checked["kernel_size"]):
            dimensions = len(checked["kernel_size"])
            raise ValueError(f"`{name}` must have {dimensions} numbers, as `kernel_size` has, got {size}")
    weights = numel(checked["kernel_size"]) * inputs * outputs // groups
    positions = numel(checked.get("transposed_from", checked["output_size"]))
    return Cost(positions * weights, weights, (*checked["output_size"], outputs))


def of(shape: ConvShape) -> Cost:
    """What one image costs in this convolution; the batch is left out."""
    return Cost(
        numel(shape.output_shape[1:]) * shape.channels_per_group * numel(shape.kernel_size),
        shape.parameters,
        (*shape.output_size, shape.out_channels),
    )


def table(
    in_channels: int, out_channels: int, kernel_size: Any, output_size: Any, *, multiplier: int = 1
) -> tuple[Row, ...]:
    """The definitions for one layer, row by row, from one kernel at one position to the ratio."""
    both = compare(in_channels, out_channels, kernel_size, output_size, multiplier=multiplier)
    kernel = "×".join(map(str, pair("kernel_size", kernel_size)))
    middle = in_channels * multiplier
    costs = {
        "standard, one kernel, one position": one_position(in_channels, kernel_size),
        "standard, one kernel": one_kernel(in_channels, kernel_size, output_size),
        f"standard, {_kernels(out_channels)} {kernel}×{in_channels}": both.standard,
        f"depthwise, {_kernels(middle)} {kernel}×1": depthwise(
            in_channels, kernel_size, output_size, multiplier=multiplier
        ),
        f"pointwise, {_kernels(out_channels)} 1×1×{middle}": pointwise(middle, out_channels, output_size),
        "separable, depthwise + pointwise": both.separable,
    }
    rows = [Row(name, cost.output, cost.multiplications, cost.parameters) for name, cost in costs.items()]
    return *rows, Row("separable / standard", None, both.ratio, both.parameter_ratio)


def _kernels(count: int) -> str:
    return "1 kernel" if count == 1 else f"{count} kernels"
