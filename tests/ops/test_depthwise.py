"""Depthwise convolution against the reference."""

from __future__ import annotations

import pytest
import torch

from ninefold import ops, reference

GEOMETRIES = [
    {"padding": 1},
    {"stride": 2},
    {"stride": 2, "padding": "same_upper"},
    {"padding": "same", "dilation": (2, 3)},
    {"stride": (1, 2), "padding": (0, 3, 2, 0)},
    {"stride": 3, "padding": (1, 2), "dilation": 2},
]
KERNELS = [(1, 1), (1, 3), (3, 3), (4, 2), (5, 5), (7, 7), (9, 3), (11, 11)]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_equals_the_reference(isa, threads, layout, integers, assert_right, kernel, geometry):
    x, weight, bias = integers(2, 9, 25, 23), integers(9, 1, *kernel), integers(9)
    want = reference.depthwise_conv2d(x, weight, bias, activation="relu", **geometry)
    got = ops.depthwise_conv2d(x.to(memory_format=layout), weight, bias, activation="relu", **geometry)
    assert_right(got, want, "relu")
    assert got.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("multiplier", [1, 2, 3, 5])
@pytest.mark.parametrize("channels", [1, 2, 7, 16, 33])
def test_multipliers(isa, layout, integers, assert_right, channels, multiplier):
    x, weight = integers(1, channels, 8, 7), integers(channels * multiplier, 1, 3, 3)
    got = ops.depthwise_conv2d(x.to(memory_format=layout), weight, padding=1)
    assert_right(got, reference.depthwise_conv2d(x, weight, padding=1))


@pytest.mark.parametrize("channels", range(1, 34))
def test_channel_tails(isa, integers, assert_right, channels):
    x, weight, bias = integers(2, channels, 9, 8), integers(channels, 1, 3, 3), integers(channels)
    for stride in (1, 2):
        got = ops.depthwise_conv2d(x, weight, bias, stride=stride, padding=1)
        assert_right(got, reference.depthwise_conv2d(x, weight, bias, stride=stride, padding=1))


# A row of pixels is a row of numbers here: padded or as it is, at a stride in parts, shorter than a vector.
@pytest.mark.parametrize("geometry", [{}, *GEOMETRIES], ids=str)
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (1, 6), (7, 7)], ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 12, 33])
def test_few_channels_and_few_taps(isa, threads, layout, integers, assert_right, channels, kernel, geometry):
    for size in ((13, 15), (21, 40)):
        x, weight, bias = integers(2, channels, *size), integers(channels, 1, *kernel), integers(channels)
        got = ops.depthwise_conv2d(x.to(memory_format=layout), weight, bias, activation="relu", **geometry)
        want = reference.depthwise_conv2d(x, weight, bias, activation="relu", **geometry)
        assert_right(got, want, "relu")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_of_numbers_keeps_to_its_taps(isa, integers, bad):
    x, weight = integers(1, 3, 15, 16), torch.ones(3, 1, 5, 5)
    x[0, 1, 8, 9] = bad
    got = ops.depthwise_conv2d(x, weight, padding=2)
    want = torch.from_numpy(reference.depthwise_conv2d(x, weight, padding=2))
    seen = torch.isfinite(want)
    assert (~seen).sum() == 25 and torch.equal(torch.isfinite(got), seen)
    assert torch.equal(got[seen], want[seen].float())


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 1), (4, 17), (31, 2)], ids=str)
def test_small_and_narrow_images(isa, threads, integers, assert_right, size):
    x, weight = integers(3, 17, *size), integers(17, 1, 3, 3)
    for stride in (1, 2):
        got = ops.depthwise_conv2d(x, weight, stride=stride, padding="same_upper")
        assert_right(got, reference.depthwise_conv2d(x, weight, stride=stride, padding="same_upper"))


def test_every_activation(isa, integers, activation, assert_right):
    x, weight, bias = integers(1, 18, 9, 9), integers(18, 1, 3, 3) / 4, integers(18)
    got = ops.depthwise_conv2d(x, weight, bias, activation=activation)
    assert_right(got, reference.depthwise_conv2d(x, weight, bias, activation=activation), activation)


# Even filters are made by the kernels one row and one column larger.
@pytest.mark.parametrize("size", [(5, 4), (7, 6), (8, 13), (19, 30)], ids=str)
@pytest.mark.parametrize(
    "geometry", [{}, {"padding": 1, "stride": 2}, {"padding": (2, 1, 0, 3), "dilation": 2}]
)
@pytest.mark.parametrize("kernel", [2, 4, 6])
def test_even_filters(isa, threads, layout, integers, assert_right, kernel, geometry, size):
    if geometry.get("dilation") == 2:
        size = (size[0] + kernel, size[1] + kernel)
    elif kernel == 6:
        size = (size[0] + 3, size[1] + 3)
    x, weight, bias = integers(2, 40, *size), integers(40, 1, kernel, kernel), integers(40)
    got = ops.depthwise_conv2d(x.to(memory_format=layout), weight, bias, activation="relu6", **geometry)
    assert_right(got, reference.depthwise_conv2d(x, weight, bias, activation="relu6", **geometry), "relu6")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [2, 4, 6])
def test_what_an_even_filter_does_not_see_stays_out(isa, integers, kernel, stride, bad):
    x, weight = integers(1, 32, 15, 16), torch.ones(32, 1, kernel, kernel)
    x[:, :, 8, 9] = bad
    got = ops.depthwise_conv2d(x, weight, stride=stride, padding=1)
    want = torch.from_numpy(reference.depthwise_conv2d(x, weight, stride=stride, padding=1))
    seen = torch.isfinite(want)
    assert not seen.all() and torch.equal(torch.isfinite(got), seen)
    assert torch.equal(got[seen], want[seen].float())
