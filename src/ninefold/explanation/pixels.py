"""The few pixels to try: two channels, a depthwise kernel for each, and three outputs mixed from them."""

from __future__ import annotations

from typing import Any

from ninefold import cost

Grid = list[list[int]]

INPUT: list[Grid] = [
    [[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4]],
    [[1, 2, 1, 0], [0, 3, 0, 1], [2, 1, 2, 0], [1, 0, 1, 3]],
]
KERNELS: list[Grid] = [
    [[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]],
    [[1, 1, 1], [1, 1, 1], [1, 1, 1]],
]
WEIGHTS: Grid = [[1, 0], [1, 1], [1, -1]]


def first_numbers() -> dict[str, Any]:
    """What the page starts from; `script/pixels.js` computes the rest again when a number changes."""
    return {"input": INPUT, "kernels": KERNELS, "weights": WEIGHTS}


def filtered() -> list[Grid]:
    """The depthwise stage: each channel with its own kernel, stride 1, no padding."""
    return [_slide(image, kernel) for image, kernel in zip(INPUT, KERNELS, strict=True)]


def combined() -> list[Grid]:
    """The pointwise stage: each output a weighted sum of the filtered channels, pixel by pixel."""
    channels = filtered()
    return [
        [
            [sum(weight * channel[row][column] for weight, channel in zip(weights, channels, strict=True))
             for column in range(2)]
            for row in range(2)
        ]
        for weights in WEIGHTS
    ]  # fmt: skip


def counts() -> dict[str, int]:
    """Multiplications of the two stages, of both, and of a standard convolution of the same shape."""
    size = len(INPUT[0]) - len(KERNELS[0]) + 1
    shape = (len(INPUT), len(WEIGHTS), len(KERNELS[0]), size)
    first = cost.depthwise(shape[0], shape[2], size).multiplications
    second = cost.pointwise(shape[0], shape[1], size).multiplications
    standard = cost.standard(*shape).multiplications
    return {"first": first, "second": second, "total": first + second, "standard": standard}


def _slide(image: Grid, kernel: Grid) -> Grid:
    places = range(len(image) - len(kernel) + 1)
    reach = range(len(kernel))
    return [
        [sum(kernel[i][j] * image[row + i][column + j] for i in reach for j in reach) for column in places]
        for row in places
    ]
