"""Standard and grouped convolution against the reference."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from ninefold import ops, reference

GEOMETRIES = [
    {},
    {"padding": 1},
    {"stride": 2, "padding": 1},
    {"stride": (2, 1), "padding": (0, 1)},
    {"stride": 2, "padding": "same_upper"},
    {"padding": "same", "dilation": 2},
    {"padding": (2, 0, 1, 3)},
    {"dilation": (1, 2), "padding": "same_upper", "stride": (1, 3)},
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (3, 3), (5, 1)], ids=str)
def test_equals_the_reference(isa, threads, layout, integers, assert_right, kernel, geometry):
    x, weight, bias = integers(2, 5, 13, 11), integers(7, 5, *kernel).to(memory_format=layout), integers(7)
    want = reference.conv2d(x, weight, bias, activation="relu6", **geometry)
    got = ops.conv2d(x.to(memory_format=layout), weight, bias, activation="relu6", **geometry)
    assert_right(got, want, "relu6")
    assert got.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    ("groups", "channels", "out_channels"), [(2, 6, 4), (3, 6, 33), (4, 4, 12), (5, 5, 5)]
)
def test_groups(isa, layout, integers, assert_right, groups, channels, out_channels):
    x, weight = integers(2, channels, 8, 9), integers(out_channels, channels // groups, 3, 3)
    weight = weight.to(memory_format=layout)
    got = ops.conv2d(x.to(memory_format=layout), weight, groups=groups, padding=1, stride=2)
    assert_right(got, reference.conv2d(x, weight, groups=groups, padding=1, stride=2))


@pytest.mark.parametrize("outputs", [5, 12, 40])
@pytest.mark.parametrize(
    ("size", "geometry"),
    [
        ((6, 5), {"padding": (0, 0, 9, 12)}),  # bands of rows above and below the image
        ((9, 1), {"padding": (13, 0, 0, 0), "stride": 7}),  # columns beside it, further apart than the kernel
        ((3, 2), {"padding": (9, 11, 8, 7), "stride": 3}),
        ((4, 4), {"padding": (12, 12, 12, 12)}),
    ],
    ids=str,
)
@pytest.mark.parametrize("kernel", [(1, 2), (3, 3)], ids=str)
def test_padding_wider_than_the_kernel(isa, threads, integers, assert_right, kernel, size, geometry, outputs):
    x, weight, bias = integers(1, 3, *size), integers(outputs, 3, *kernel), integers(outputs)
    if kernel == (1, 2) and size == (9, 1):
        weight = weight[..., :1]
    got = ops.conv2d(x, weight, bias, **geometry)
    assert_right(got, reference.conv2d(x, weight, bias, **geometry))


@pytest.mark.parametrize("outputs", [8, 16, 40])
@pytest.mark.parametrize(("channels", "stride"), [(3, 1), (3, 2), (3, 4), (6, 1), (2, 3), (1, 3)])
@pytest.mark.parametrize("geometry", [{"padding": 1}, {"dilation": 2, "padding": (2, 2)}], ids=str)
def test_columns_a_known_distance_apart(
    isa, threads, integers, assert_right, geometry, channels, stride, outputs
):
    x, weight, bias = integers(2, channels, 9, 83), integers(outputs, channels, 3, 3), integers(outputs)
    got = ops.conv2d(x, weight, bias, stride=stride, activation="relu", **geometry)
    assert_right(got, reference.conv2d(x, weight, bias, stride=stride, activation="relu", **geometry), "relu")


def test_every_activation(isa, integers, activation, assert_right):
    x, weight, bias = integers(1, 3, 9, 9), integers(18, 3, 3, 3) / 4, integers(18)
    got = ops.conv2d(x, weight, bias, activation=activation)
    assert_right(got, reference.conv2d(x, weight, bias, activation=activation), activation)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("out_channels", [1, 7, 8, 15, 16, 17, 31, 32, 33])
def test_channel_tails(isa, integers, assert_right, channels, out_channels):
    x, weight, bias = (
        integers(1, channels, 7, 6),
        integers(out_channels, channels, 3, 3),
        integers(out_channels),
    )
    got = ops.conv2d(x, weight, bias, stride=2, padding="same_upper")
    assert_right(got, reference.conv2d(x, weight, bias, stride=2, padding="same_upper"))


def test_random_reals_are_within_the_bound_of_a_sum(isa, threads, reals):
    x, weight = reals(2, 24, 14, 14), reals(33, 24, 3, 3)
    want = reference.conv2d(x, weight, padding=1)
    # Every partial sum rounds by at most half a unit in the last place of the sum of magnitudes.
    magnitudes = reference.conv2d(x.abs(), weight.abs(), padding=1)
    bound = (24 * 9) * 2.0**-24 * magnitudes
    assert (abs(ops.conv2d(x, weight, padding=1).numpy() - want) <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64])
def test_other_dtypes_go_to_pytorch(integers, dtype):
    x, weight = integers(1, 2, 5, 5).to(dtype), integers(3, 2, 3, 3).to(dtype)
    got = ops.conv2d(x, weight, padding=(1, 0, 0, 1))
    assert got.dtype is dtype
    want = reference.conv2d(x.real.float(), weight.real.float(), padding=(1, 0, 0, 1))
    assert torch.equal(got, torch.from_numpy(want).to(dtype))


# Few pixels and many weights: the weights are read where they lie, or packed panel by panel; in any format.
ONCE = [
    (40, 200, (5, 5), (7, 7), {"stride": 2, "padding": 2}, 1),
    (40, 200, (3, 3), (5, 4), {"padding": 2, "dilation": 2}, 1),
    (33, 130, (3, 3), (4, 5), {"stride": (2, 1), "padding": (1, 0, 2, 3)}, 3),
    (70, 150, (4, 4), (6, 7), {"padding": 1}, 1),
    (24, 70, (7, 7), (7, 7), {"padding": 3}, 1),
    (24, 70, (7, 7), (9, 8), {"padding": 6, "dilation": 2}, 2),
    (130, 37, (3, 3), (8, 8), {"padding": 1}, 2),
    (300, 260, (1, 1), (5, 5), {"stride": 2}, 1),
]


@pytest.mark.parametrize("activation", [None, "relu6", "silu"])
@pytest.mark.parametrize("case", ONCE, ids=str)
def test_few_pixels_and_many_weights(isa, threads, layout, integers, assert_right, case, activation):
    channels, outputs, kernel, size, geometry, batch = case
    x, weight = integers(batch, channels, *size), integers(outputs, channels, *kernel)
    weight = weight.to(memory_format=layout)
    bias = integers(outputs)
    got = ops.conv2d(x.to(memory_format=layout), weight, bias, activation=activation, **geometry)
    assert_right(got, reference.conv2d(x, weight, bias, activation=activation, **geometry), activation)
    assert got.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("case", ONCE[:6], ids=str)
def test_nan_among_few_pixels_reaches_what_sees_it(isa, layout, integers, case):
    channels, outputs, kernel, size, geometry, _ = case
    x, weight = integers(1, channels, *size), torch.ones(outputs, channels, *kernel).to(memory_format=layout)
    x[0, 3, 2, 2] = torch.nan
    got = ops.conv2d(x, weight, activation="relu6", **geometry)
    want = torch.from_numpy(reference.conv2d(x, weight, activation="relu6", **geometry))
    assert torch.isnan(want).any() and torch.equal(torch.isnan(got), torch.isnan(want))


# Size, kernel, dilation and padding, where the padded image is as large as the window.
TINY = [
    case
    for case in product(
        [(1, 1), (1, 3), (2, 1), (2, 2)],
        [(3, 3), (4, 5), (7, 2)],
        [1, 2],
        [(3, 3, 3, 3), (5, 2, 4, 12), (6, 6, 12, 0)],
    )
    if case[0][0] + sum(case[3][2:]) > case[2] * (case[1][0] - 1)
    and case[0][1] + sum(case[3][:2]) > case[2] * (case[1][1] - 1)
]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("size", "kernel", "dilation", "padding"), TINY, ids=str)
def test_taps_that_see_nothing(layout, integers, assert_right, size, kernel, dilation, padding, stride):
    x, weight, bias = integers(2, 6, *size), integers(9, 6, *kernel).to(memory_format=layout), integers(9)
    named = {"stride": stride, "padding": padding, "dilation": dilation, "activation": "relu"}
    assert_right(ops.conv2d(x, weight, bias, **named), reference.conv2d(x, weight, bias, **named))


@pytest.mark.parametrize("kernel", [2, 3])
def test_every_number_of_columns(isa, integers, assert_right, kernel):
    weight, bias = integers(9, 2, kernel, kernel), integers(9)
    for width in range(kernel, 64):
        x = integers(1, 2, 4, width)
        for padding in (0, 1):
            got = ops.conv2d(x, weight, bias, padding=padding)
            assert_right(got, reference.conv2d(x, weight, bias, padding=padding))
