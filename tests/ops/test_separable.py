"""Fused separable convolution against the reference."""

from __future__ import annotations

import pytest
import torch

from ninefold import ops, reference

GEOMETRIES = [
    {"padding": 1},
    {"stride": 2, "padding": "same_upper"},
    {"stride": (1, 2), "padding": (0, 3, 2, 0)},
    {"padding": "same", "dilation": 2},
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (7, 7), (2, 9)], ids=str)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_equals_the_reference(isa, threads, layout, integers, assert_right, kernel, geometry, multiplier):
    inner = 18 * multiplier
    x, depthwise, pointwise = integers(2, 18, 17, 19), integers(inner, 1, *kernel), integers(20, inner, 1, 1)
    biases = integers(inner), integers(20)
    rest = {"depthwise_activation": "relu6", "activation": "relu", **geometry}
    want = reference.separable_conv2d(x, depthwise, pointwise, *biases, **rest)
    got = ops.separable_conv2d(x.to(memory_format=layout), depthwise, pointwise, *biases, **rest)
    assert_right(got, want, "relu6", "relu")
    assert got.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("channels", range(1, 34))
def test_channel_tails(isa, integers, assert_right, channels):
    outs = 34 - channels
    x, depthwise, pointwise = (
        integers(2, channels, 7, 7),
        integers(channels, 1, 3, 3),
        integers(outs, channels, 1, 1),
    )
    for stride in (1, 2):
        got = ops.separable_conv2d(x, depthwise, pointwise, stride=stride, padding=1)
        assert_right(got, reference.separable_conv2d(x, depthwise, pointwise, stride=stride, padding=1))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2), (7, 7), (4, 29), (57, 3)], ids=str)
def test_small_and_narrow_images(isa, threads, integers, assert_right, size):
    x, depthwise, pointwise = integers(3, 17, *size), integers(17, 1, 3, 3), integers(9, 17, 1, 1)
    residual = integers(3, 9, *size)
    got = ops.separable_conv2d(x, depthwise, pointwise, padding="same_upper", residual=residual)
    want = reference.separable_conv2d(x, depthwise, pointwise, padding="same_upper", residual=residual)
    assert_right(got, want)


def test_every_activation_in_both_places(isa, integers, activation, assert_right):
    x, depthwise, pointwise = integers(1, 6, 9, 9), integers(6, 1, 3, 3) / 4, integers(18, 6, 1, 1) / 4
    biases, residual = (integers(6), integers(18)), integers(1, 18, 7, 7)
    for first, last in ((activation, None), (None, activation), (activation, activation)):
        rest = {"depthwise_activation": first, "activation": last, "residual": residual}
        got = ops.separable_conv2d(x, depthwise, pointwise, *biases, **rest)
        want = reference.separable_conv2d(x, depthwise, pointwise, *biases, **rest)
        assert_right(got, want, first, last)


def test_random_reals_are_as_near_as_two_sums_allow(isa, threads, reals):
    x, depthwise, pointwise = reals(1, 96, 14, 14), reals(96, 1, 3, 3), reals(40, 96, 1, 1)
    want = reference.separable_conv2d(x, depthwise, pointwise, padding=1)
    magnitudes = reference.separable_conv2d(x.abs(), depthwise.abs(), pointwise.abs(), padding=1)
    got = ops.separable_conv2d(x, depthwise, pointwise, padding=1).numpy()
    assert (abs(got - want) <= (9 + 96) * 2.0**-24 * magnitudes).all()


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (7, 7), (19, 19), (9, 13), (33, 2), (2, 33)], ids=str)
def test_threads_that_share_a_row_agree_with_one(isa, reals, count, size):
    x, depthwise, pointwise = reals(1, 300, *size), reals(300, 1, 3, 3), reals(40, 300, 1, 1)
    residual, found, before = reals(1, 40, *size), [], torch.get_num_threads()
    for threads in (1, count):
        torch.set_num_threads(threads)
        try:
            found.append(ops.separable_conv2d(x, depthwise, pointwise, padding=1, residual=residual))
        finally:
            torch.set_num_threads(before)
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-4)
