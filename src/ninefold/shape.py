"""What a convolution is, and every message about a bad one.

Plain integers and tuples in, plain data out: no tensors, standard library only. Sizes that a tracer left
symbolic pass through unchanged, so the same checks serve real calls and shape inference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]

ACTIVATIONS: tuple[str | None, ...] = (
    None,
    "relu",
    "relu6",
    "silu",
    "hardswish",
    "gelu",
    "gelu_tanh",
    "hardsigmoid",
    "sigmoid",
)
PADDINGS: tuple[str, ...] = ("valid", "same", "same_upper")


def integer(name: str, value: Any, *, minimum: int = 1) -> int:
    """Return `value` as an int of at least `minimum`.

    Raises TypeError for what is not an integer (bools and floats included), ValueError for one too small.
    """
    number = _index(value)
    if number is None:
        raise TypeError(f"`{name}` must be an int, got {value!r}")
    if number < minimum:
        raise ValueError(f"`{name}` must be {_at_least(minimum)}, got {value}")
    return number


def pair(name: str, value: Any) -> Pair:
    """Return an int or an (h, w) pair as an (h, w) pair of positive ints.

    Raises TypeError for what is not made of integers, ValueError for a wrong count of them or one below 1.
    """
    number = _index(value)
    if number is not None:
        numbers = [number, number]
    else:
        numbers = _integers(name, value, "an int or an (h, w) pair of ints")
        if len(numbers) != 2:
            raise ValueError(f"`{name}` must be an int or an (h, w) pair, got {value!r}")
    if numbers[0] < 1 or numbers[1] < 1:
        raise ValueError(f"`{name}` must be positive, got {value!r}")
    return numbers[0], numbers[1]


def resolve_padding(
    padding: Any, *, kernel_size: Pair, stride: Pair, dilation: Pair, input_size: Pair
) -> Sides:
    """Return any kind of padding as (left, right, top, bottom), the order of `torch.nn.functional.pad`.

    `padding` is an int, an (h, w) pair, four ints (left, right, top, bottom), or a name: "valid" is none;
    "same" is PyTorch's, for stride 1 only; "same_upper" is TensorFlow's and ONNX's, an output of
    ceil(input / stride) at any stride. An odd total puts the extra row at the bottom, the extra column at
    the right.

    Raises TypeError for what is neither a name nor made of integers, ValueError for an unknown name, a
    negative number, a wrong count of numbers, and for "same" with a stride.
    """
    if isinstance(padding, str):
        return _named_padding(padding, kernel_size, stride, dilation, input_size)
    kinds = "an int, an (h, w) pair, four ints (left, right, top, bottom), 'valid', 'same' or 'same_upper'"
    number = _index(padding)
    numbers = [number] if number is not None else _integers("padding", padding, kinds)
    if number is None and len(numbers) not in (2, 4):
        raise ValueError(f"`padding` must be {kinds}, got {padding!r}")
    for side in numbers:
        if side < 0:
            raise ValueError(f"`padding` must be non-negative, got {padding!r}")
    if len(numbers) == 4:
        return numbers[0], numbers[1], numbers[2], numbers[3]
    h, w = numbers[0], numbers[-1]
    return w, w, h, h


def output_size(
    input_size: Any, kernel_size: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1
) -> Pair:
    """Return the (h, w) that a convolution makes of an input; sizes are ints or (h, w) pairs.

    Raises TypeError and ValueError as `ConvShape` does.
    """
    height, width = pair("input_size", input_size)
    tall, wide = pair("kernel_size", kernel_size)
    return ConvShape.standard(
        (1, 1, height, width), (1, 1, tall, wide), stride=stride, padding=padding, dilation=dilation
    ).output_size


def check_activation(name: Any, *, argument: str = "activation") -> str | None:
    """Return `name` if it is None or an activation's name; raise ValueError, TypeError if it is no name."""
    if name is None or (isinstance(name, str) and name in ACTIVATIONS):
        return name
    error = ValueError if isinstance(name, str) else TypeError
    raise error(f"`{argument}` must be one of {', '.join(map(repr, ACTIVATIONS))}, got {name!r}")


def check_residual(
    residual_shape: Sequence[int], output_shape: Sequence[int], *, argument: str = "residual"
) -> None:
    """Raise ValueError unless the residual has exactly the output's shape: it is added, never broadcast."""
    if tuple(residual_shape) != tuple(output_shape):
        raise ValueError(
            f"`{argument}` must have the output's shape {tuple(output_shape)}, got {tuple(residual_shape)}"
        )


def numel(shape: Iterable[int]) -> int:
    """Return the number of elements of a shape, exactly: Python's ints do not overflow."""
    return math.prod(shape)


def check_computable(conv: ConvShape) -> None:
    """Raise ValueError where a convolution can be counted but its positions leave 32 bits.

    PyTorch's own convolutions overflow there (its issues 70523 and 152816).
    """
    for name in ("stride", "dilation", "padding"):
        if _too_large(getattr(conv, name)):
            raise ValueError(f"`{name}` must be less than 2³¹, got {getattr(conv, name)}")
    if _too_large(conv._padded_size):
        size = _by(conv._padded_size)
        raise ValueError(f"`padding` must leave the padded input below 2³¹ rows and columns, got {size}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvShape:
    """One two-dimensional convolution, checked: sizes are (h, w), padding is (left, right, top, bottom).

    Raises TypeError for what is not an integer and ValueError for what no convolution can have.
    """

    in_channels: int
    out_channels: int
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    input_size: Pair
    batch: int = 1

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "groups"):
            integer(name, getattr(self, name))
        integer("batch", self.batch, minimum=0)
        for name in ("kernel_size", "stride", "dilation", "input_size"):
            value = getattr(self, name)
            if not isinstance(value, tuple):
                raise TypeError(f"`{name}` must be an (h, w) pair of ints, got {value!r}")
            pair(name, value)
        if not isinstance(self.padding, tuple) or len(self.padding) != 4:
            raise TypeError(f"`padding` must be four ints (left, right, top, bottom), got {self.padding!r}")
        for side in self.padding:
            integer("padding", side, minimum=0)
        for channels, kind in ((self.in_channels, "input"), (self.out_channels, "output")):
            if channels % self.groups != 0:
                raise ValueError(f"`groups` must divide the {channels} {kind} channels, got {self.groups}")
        self._check_output()

    @classmethod
    def standard(
        cls,
        x_shape: Sequence[int],
        weight_shape: Sequence[int],
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: Any = 1,
        bias_shape: Sequence[int] | None = None,
    ) -> ConvShape:
        """Check a convolution of `x` (batch, C, H, W) with `weight` (N, C/groups, kh, kw) and `bias` (N,).

        Raises TypeError and ValueError as the other constructors do: ranks, sizes, channels, groups, padding.
        """
        x, weight = _input(x_shape), _weight("weight", weight_shape)
        groups = integer("groups", groups)
        if x[1] % groups != 0:
            raise ValueError(f"`groups` must divide the {x[1]} input channels, got {groups}")
        if weight[1] != x[1] // groups:
            of_groups = f" in {groups} groups" if groups != 1 else ""
            raise ValueError(
                f"`weight` must take {x[1] // groups} input channels (`x` has {x[1]}{of_groups}), "
                f"got {weight[1]} in shape {weight}"
            )
        if weight[0] % groups != 0:
            raise ValueError(f"`groups` must divide the {weight[0]} output channels, got {groups}")
        _bias("bias", bias_shape, weight[0])
        return cls._build(x, weight, stride, padding, dilation, groups)

    @classmethod
    def depthwise(
        cls,
        x_shape: Sequence[int],
        weight_shape: Sequence[int],
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        bias_shape: Sequence[int] | None = None,
    ) -> ConvShape:
        """Check a depthwise convolution of `x` (batch, C, H, W) with `weight` (C·multiplier, 1, kh, kw).

        Input channel c makes the output channels c·multiplier + m. Raises TypeError and ValueError.
        """
        return cls._depthwise(x_shape, weight_shape, stride, padding, dilation, bias_shape, prefix="")

    @classmethod
    def pointwise(
        cls, x_shape: Sequence[int], weight_shape: Sequence[int], *, bias_shape: Sequence[int] | None = None
    ) -> ConvShape:
        """Check a pointwise convolution of `x` (batch, C, H, W) with `weight` (N, C, 1, 1).

        Raises TypeError and ValueError.
        """
        return cls._pointwise(_input(x_shape), weight_shape, bias_shape, prefix="")

    @property
    def output_size(self) -> Pair:
        """Height and width of the output: floor((padded - span) / stride) + 1."""
        (height, width), (tall, wide) = self._padded_size, self._span
        return (height - tall) // self.stride[0] + 1, (width - wide) // self.stride[1] + 1

    @property
    def channels_per_group(self) -> int:
        """Input channels that each kernel sees."""
        return self.in_channels // self.groups

    @property
    def multiplier(self) -> int:
        """Output channels per group: the depth multiplier of a depthwise convolution."""
        return self.out_channels // self.groups

    @property
    def is_depthwise(self) -> bool:
        """Whether each input channel is filtered on its own (a single channel always is)."""
        return self.groups == self.in_channels

    @property
    def is_pointwise(self) -> bool:
        """Whether each output pixel is made from the one input pixel at its place, all channels together."""
        return (
            self.kernel_size == (1, 1)
            and self.groups == 1
            and self.stride == (1, 1)
            and self.padding == (0, 0, 0, 0)
        )

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(batch, in_channels, height, width)."""
        return self.batch, self.in_channels, *self.input_size

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(out_channels, in_channels/groups, kernel height, kernel width), as PyTorch has it."""
        return self.out_channels, self.channels_per_group, *self.kernel_size

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(batch, out_channels, height, width)."""
        return self.batch, self.out_channels, *self.output_size

    @property
    def multiplications(self) -> int:
        """Multiplications for the whole batch; those with the padding's zeros count too."""
        return numel(self.output_shape) * self.channels_per_group * numel(self.kernel_size)

    @property
    def parameters(self) -> int:
        """Weights of the kernels; a bias is not counted."""
        return numel(self.weight_shape)

    @property
    def _span(self) -> Pair:
        (tall, wide), (down, right) = self.kernel_size, self.dilation
        return (tall - 1) * down + 1, (wide - 1) * right + 1

    @property
    def _padded_size(self) -> Pair:
        left, right, top, bottom = self.padding
        return self.input_size[0] + top + bottom, self.input_size[1] + left + right

    @classmethod
    def _depthwise(
        cls,
        x_shape: Sequence[int],
        weight_shape: Sequence[int],
        stride: Any,
        padding: Any,
        dilation: Any,
        bias_shape: Sequence[int] | None,
        *,
        prefix: str,
    ) -> ConvShape:
        name = f"{prefix}weight"
        x, weight = _input(x_shape), _weight(name, weight_shape)
        if weight[1] != 1:
            raise ValueError(f"`{name}` must have shape (channels·multiplier, 1, kh, kw), got {weight}")
        if weight[0] % x[1] != 0:
            raise ValueError(
                f"`{name}` must have a multiple of the {x[1]} channels of `x` as output channels, "
                f"got {weight[0]} in shape {weight}"
            )
        _bias(f"{prefix}bias", bias_shape, weight[0])
        return cls._build(x, weight, stride, padding, dilation, x[1])

    @classmethod
    def _pointwise(
        cls, x: tuple[int, ...], weight_shape: Sequence[int], bias_shape: Sequence[int] | None, *, prefix: str
    ) -> ConvShape:
        name = f"{prefix}weight"
        weight = _weight(name, weight_shape)
        if weight[2] != 1 or weight[3] != 1:
            raise ValueError(f"`{name}` must have a 1×1 kernel, got {_by(weight[2:])} in shape {weight}")
        if weight[1] != x[1]:
            source = "the depthwise stage makes" if prefix else "`x` has"
            raise ValueError(
                f"`{name}` must take {x[1]} input channels ({source} {x[1]}), "
                f"got {weight[1]} in shape {weight}"
            )
        _bias(f"{prefix}bias", bias_shape, weight[0])
        return cls._build(x, weight, 1, 0, 1, 1)

    @classmethod
    def _build(
        cls,
        x: tuple[int, ...],
        weight: tuple[int, ...],
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
    ) -> ConvShape:
        kernel_size, input_size = (weight[2], weight[3]), (x[2], x[3])
        stride, dilation = pair("stride", stride), pair("dilation", dilation)
        sides = resolve_padding(
            padding, kernel_size=kernel_size, stride=stride, dilation=dilation, input_size=input_size
        )
        # Every number has been checked by now, and checking them again would double the time of a call.
        shape = object.__new__(cls)
        values = (x[1], weight[0], kernel_size, stride, sides, dilation, groups, input_size, x[0])
        for name, value in zip(_FIELDS, values, strict=True):
            object.__setattr__(shape, name, value)
        shape._check_output()
        return shape

    def _check_output(self) -> None:
        height, width = self.output_size
        if height < 1 or width < 1:
            raise ValueError(
                f"`kernel_size` must fit the padded input: {_by(self.kernel_size)} with dilation "
                f"{_by(self.dilation)} spans {_by(self._span)}, got a padded input of "
                f"{_by(self._padded_size)}"
            )


_FIELDS = tuple(field.name for field in fields(ConvShape))


def separable(
    x_shape: Sequence[int],
    depthwise_weight_shape: Sequence[int],
    pointwise_weight_shape: Sequence[int],
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    depthwise_bias_shape: Sequence[int] | None = None,
    pointwise_bias_shape: Sequence[int] | None = None,
    residual_shape: Sequence[int] | None = None,
) -> tuple[ConvShape, ConvShape]:
    """Check a separable convolution and return its depthwise and its pointwise stage.

    `x` is (batch, C, H, W), `depthwise_weight` (C·multiplier, 1, kh, kw), `pointwise_weight`
    (N, C·multiplier, 1, 1); a residual has the output's shape. Raises TypeError and ValueError.
    """
    first = ConvShape._depthwise(
        x_shape, depthwise_weight_shape, stride, padding, dilation, depthwise_bias_shape, prefix="depthwise_"
    )
    second = ConvShape._pointwise(
        first.output_shape, pointwise_weight_shape, pointwise_bias_shape, prefix="pointwise_"
    )
    if residual_shape is not None:
        check_residual(residual_shape, second.output_shape)
    return first, second


def _index(value: Any) -> Any:
    if type(value) is int:
        return value
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return int(value)
    # A symbolic size has `__index__`, but calling it would pin the size to the value of one example.
    if hasattr(value, "node") and hasattr(type(value), "__index__"):
        return value
    return None


def _integers(name: str, value: Any, kinds: str) -> list[int]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"`{name}` must be {kinds}, got {value!r}")
    numbers = [_index(item) for item in value]
    if any(number is None for number in numbers):
        raise TypeError(f"`{name}` must be {kinds}, got {value!r}")
    return numbers


def _named_padding(padding: str, kernel_size: Pair, stride: Pair, dilation: Pair, input_size: Pair) -> Sides:
    if padding not in PADDINGS:
        names = ", ".join(map(repr, PADDINGS))
        raise ValueError(f"`padding` must be one of {names}, or numbers, got {padding!r}")
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same" and stride != (1, 1):
        raise ValueError(
            f"`padding='same'` is not supported for strided convolutions, got stride {stride}; "
            "'same_upper' is TensorFlow's, for any stride"
        )
    totals = []
    for size, kernel, step, spread in zip(input_size, kernel_size, stride, dilation, strict=True):
        span = (kernel - 1) * spread + 1
        covered = (-(-size // step) - 1) * step + span
        # At stride 1 the input's size cancels out; saying so keeps a symbolic size out of the result.
        totals.append(span - 1 if step == 1 else max(covered - size, 0))
    (top, left) = (total // 2 for total in totals)
    return left, totals[1] - left, top, totals[0] - top


def _input(shape: Sequence[int]) -> tuple[int, ...]:
    x = _shape("x", shape, "(batch, channels, height, width)")
    if x[0] < 0:
        raise ValueError(f"`x` must have a non-negative batch, got shape {x}")
    if x[1] < 1 or x[2] < 1 or x[3] < 1:
        raise ValueError(f"`x` must have a positive number of channels, height and width, got shape {x}")
    return x


def _weight(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    weight = _shape(name, shape, "(out_channels, in_channels/groups, kernel height, kernel width)")
    if min(weight) < 1:
        raise ValueError(f"`{name}` must have positive sizes, got shape {weight}")
    return weight


def _shape(name: str, shape: Sequence[int], meaning: str) -> tuple[int, ...]:
    numbers = tuple(_integers(name, shape, f"of a shape made of ints {meaning}"))
    if len(numbers) != 4:
        raise ValueError(f"`{name}` must have 4 dimensions {meaning}, got {len(numbers)} in shape {numbers}")
    return numbers


def _bias(name: str, shape: Sequence[int] | None, channels: int) -> None:
    if shape is not None and tuple(shape) != (channels,):
        raise ValueError(
            f"`{name}` must have shape ({channels},), one number per output channel, got {tuple(shape)}"
        )


def _too_large(size: Sequence[int]) -> bool:
    # A symbolic size is left alone: a comparison would become a guard.
    return any(type(number) is int and number >= 2**31 for number in size)


def _at_least(minimum: int) -> str:
    return {0: "non-negative", 1: "positive"}.get(minimum, f"at least {minimum}")


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}×{size[1]}"
