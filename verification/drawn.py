"""Random cases, the awkward ones more often: channel tails, borders wider than images, strides past the end.

A case is plain data and follows from (seed, operator, direction, index) alone, so four words reproduce it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from zlib import crc32

import numpy as np

from ninefold.shape import ACTIVATIONS, ConvShape

DIRECTIONS = ("forward", "input-gradient", "weight-gradient")

EXACT = (None, "relu", "relu6")  # activations that keep integers

# One below, at and one above the widths of vectors and panels; 512 and its multiples share cache sets.
_TAILS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 23, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65)
_WIDE = (96, 127, 128, 129, 160, 256, 511, 512, 513, 576)
_SIZES = (1, 1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 14, 15, 16, 17, 19, 20, 23, 28, 29, 31, 40)
_SMALL, _LARGE = 300_000, 8_000_000  # multiplications

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]


@dataclass(frozen=True)
class Stage:
    """One convolution of a chain, and what is done to its result."""

    out_channels: int
    kernel_size: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = True
    activation: str | None = None
    normalisation: str | None = None  # "batch" statistics or "running" ones, between it and the activation
    affine: bool = True

    def shape(self, x: tuple[int, ...]) -> ConvShape:
        """The convolution of an image (batch, C, H, W)."""
        weight = (self.out_channels, x[1] // self.groups, *self.kernel_size)
        return ConvShape.standard(
            x, weight, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups
        )


@dataclass(frozen=True)
class Case:
    """A chain of convolutions of one image; `integers` says what its numbers are."""

    operator: str
    direction: str
    seed: int
    index: int
    x: tuple[int, int, int, int]
    stages: tuple[Stage, ...]
    residual: bool = False
    integers: bool = True
    layout: str = "nhwc"
    shapes: tuple[tuple[int, ...], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shapes = [self.x]
        for stage in self.stages:
            shapes.append(stage.shape(shapes[-1]).output_shape)
            if stage.normalisation == "batch" and math.prod(shapes[-1]) == shapes[-1][1]:
                raise ValueError("one value per channel has no variance")
        object.__setattr__(self, "shapes", tuple(shapes))

    @property
    def multiplications(self) -> int:
        """Of all stages."""
        return sum(
            math.prod(after) * before[1] // stage.groups * math.prod(stage.kernel_size)
            for before, after, stage in zip(self.shapes, self.shapes[1:], self.stages, strict=False)
        )

    @property
    def line(self) -> str:
        """The command that runs this case alone."""
        words = f"--operator {self.operator} --direction {self.direction} --seed {self.seed}"
        return f'make verify ARGS="{words} --case {self.index}"'


def draw(operator: str, direction: str, seed: int, index: int) -> Case:
    """The case of these four words."""
    random = np.random.default_rng([seed, index, crc32(f"{operator} {direction}".encode())])
    most = _LARGE if random.random() < 0.08 else _SMALL
    while True:
        try:
            case = _draw(random, operator, direction, seed, index, wide=most == _LARGE)
        except ValueError:
            continue  # a kernel larger than its image
        if 0 < case.multiplications <= most:
            return case


def _draw(
    random: np.random.Generator, operator: str, direction: str, seed: int, index: int, *, wide: bool
) -> Case:
    batch = int(random.choice((1, 1, 1, 2, 3, 5)))
    height, width = _size(random), _size(random)
    if random.random() < 0.4:
        width = height
    channels = _channels(random, wide)
    if operator == "chain":
        channels = _vector(random, channels)
    stages = OPERATORS[operator](random, (batch, channels, height, width), wide)
    residual = operator not in ("conv2d", "depthwise") and bool(random.random() < 0.4)
    integers = bool(random.random() < 0.6)
    if operator == "chain":  # rounded sums of integers prove no more than those of other numbers
        integers = all(not stage.normalisation and stage.activation in EXACT for stage in stages)
    return Case(
        operator,
        direction,
        seed,
        index,
        (batch, channels, height, width),
        stages,
        residual=residual,
        integers=integers,
        layout=str(random.choice(("nhwc", "nhwc", "nhwc", "nchw", "strided"))),
    )


def _standard(random: np.random.Generator, x: tuple[int, ...], wide: bool) -> tuple[Stage, ...]:
    groups = (
        int(random.choice([g for g in range(1, x[1] + 1) if x[1] % g == 0])) if random.random() < 0.4 else 1
    )
    outputs = groups * int(random.integers(1, 6)) if groups > 1 else _channels(random, wide)
    return (_windowed(random, outputs, groups),)


def _depthwise(random: np.random.Generator, x: tuple[int, ...], wide: bool) -> tuple[Stage, ...]:
    multiplier = int(random.choice((1, 1, 1, 1, 2, 3, 4)))
    return (_windowed(random, x[1] * multiplier, x[1]),)


def _pointwise(random: np.random.Generator, x: tuple[int, ...], wide: bool) -> tuple[Stage, ...]:
    return (Stage(_channels(random, wide), bias=_bias(random), activation=_activation(random)),)


def _separable(random: np.random.Generator, x: tuple[int, ...], wide: bool) -> tuple[Stage, ...]:
    return (*_depthwise(random, x, wide), *_pointwise(random, x, wide))


def _inverted(random: np.random.Generator, x: tuple[int, ...], wide: bool) -> tuple[Stage, ...]:
    (expansion,) = _pointwise(random, x, wide)
    if expansion.out_channels == 1:  # of one channel there is no depthwise kernel
        expansion = replace(expansion, out_channels=6)
    return (expansion, *_separable(random, (x[0], expansion.out_channels, *x[2:]), wide))


def _chain(random: np.random.Generator, x: tuple[int, ...], wide: bool) -> tuple[Stage, ...]:
    """What `for_training` fuses: a pair most of the time, with and without batch-norm behind each stage."""
    form = str(random.choice(("dp", "dp", "dp", "dp", "pdp", "pdp", "sdp", "d", "p", "pd")))
    exact = bool(random.random() < 0.3)
    everywhere = str(random.choice(("none", "batch", "batch", "running", "mixed", "mixed")))
    stages: list[Stage] = []
    for kind in form:
        channels = stages[-1].out_channels if stages else x[1]
        if kind == "d":
            multiplier = 2 if random.random() < 0.03 else 1
            stage = _windowed(random, channels * multiplier, channels)
        elif kind == "p":
            (stage,) = _pointwise(random, x, wide)
            stage = replace(stage, out_channels=_vector(random, stage.out_channels))
        else:
            stage = _windowed(random, _vector(random, _channels(random, wide=False)), 1)
        kinds = ("none", "none", "batch", "running") if everywhere == "mixed" else (everywhere,)
        normalisation = str(random.choice(kinds))
        affine = bool(random.random() < 0.8)
        if exact:
            stage = replace(stage, activation=(None, None, "relu", "relu6")[random.integers(4)])
        elif normalisation != "none":
            stage = replace(stage, normalisation=normalisation, affine=affine)
        stages.append(stage)
    return tuple(stages)


def _vector(random: np.random.Generator, channels: int) -> int:
    """Fewer channels than a vector has run in PyTorch: a few of these are enough."""
    return channels + 4 if channels < 4 and random.random() < 0.9 else channels


# To add an operator: its stages here, and how it is called in operators.py.
OPERATORS: dict[str, Callable[[np.random.Generator, tuple[int, ...], bool], tuple[Stage, ...]]] = {
    "conv2d": _standard,
    "depthwise": _depthwise,
    "pointwise": _pointwise,
    "separable": _separable,
    "inverted": _inverted,
    "chain": _chain,
}


def _windowed(random: np.random.Generator, outputs: int, groups: int) -> Stage:
    kernel = _pair(random, (3, 3, 3, 3, 5, 5, 7, 1, 2, 4, 6, 9), even=0.8)
    stride = _pair(random, (1, 1, 1, 2, 2, 3, 4, 7), even=0.85)
    dilation = _pair(random, (1, 1, 1, 1, 1, 2, 3), even=0.85)
    reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    kind = random.random()
    if kind < 0.4:  # as most networks have it
        top, left = reach[0] // 2, reach[1] // 2
        padding = (left, left, top, top)
    elif kind < 0.55:
        padding = (0, 0, 0, 0)
    elif kind < 0.7:  # TensorFlow's: the odd one at the end
        padding = (reach[1] // 2, -(-reach[1] // 2), reach[0] // 2, -(-reach[0] // 2))
    else:  # each side its own, to where whole outputs see nothing of the image
        padding = tuple(int(random.integers(0, r + 3)) for r in (reach[1], reach[1], reach[0], reach[0]))
    return Stage(outputs, kernel, stride, padding, dilation, groups, _bias(random), _activation(random))


def _channels(random: np.random.Generator, wide: bool) -> int:
    if wide and random.random() < 0.6:
        return int(random.choice(_WIDE))
    return int(random.choice(_TAILS) if random.random() < 0.8 else random.integers(1, 70))


def _size(random: np.random.Generator) -> int:
    return int(random.choice(_SIZES))


def _pair(random: np.random.Generator, choices: tuple[int, ...], *, even: float) -> Pair:
    first, second = (int(random.choice(choices)) for _ in range(2))
    return (first, first) if random.random() < even else (first, second)


def _bias(random: np.random.Generator) -> bool:
    return bool(random.random() < 0.6)


def _activation(random: np.random.Generator) -> str | None:
    name = str(random.choice([str(name) for name in (None, None, "relu", "relu6", *ACTIVATIONS)]))
    return None if name == "None" else name
