"""Pointwise convolution against the reference."""

from __future__ import annotations

import pytest
import torch

from ninefold import ops, reference


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 7), (14, 3)], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 16, 33])
@pytest.mark.parametrize("with_residual", [False, True], ids=["plain", "residual"])
def test_equals_the_reference(isa, threads, layout, integers, assert_right, size, channels, with_residual):
    x, weight, bias = integers(2, channels, *size), integers(24, channels, 1, 1), integers(24)
    residual = integers(2, 24, *size) if with_residual else None
    want = reference.pointwise_conv2d(x, weight, bias, activation="relu6", residual=residual)
    got = ops.pointwise_conv2d(
        x.to(memory_format=layout), weight, bias, activation="relu6", residual=residual
    )
    assert_right(got, want, "relu6")


@pytest.mark.parametrize("out_channels", range(1, 34))
def test_channel_tails(isa, integers, assert_right, out_channels):
    for channels in (out_channels, 34 - out_channels):
        x, weight, bias = (
            integers(1, channels, 5, 3),
            integers(out_channels, channels, 1, 1),
            integers(out_channels),
        )
        assert_right(ops.pointwise_conv2d(x, weight, bias), reference.pointwise_conv2d(x, weight, bias))


@pytest.mark.parametrize("out_channels", [8, 16, 56])
def test_every_number_of_pixels_is_covered(isa, integers, assert_right, out_channels):
    weight, bias = integers(out_channels, 5, 1, 1), integers(out_channels)
    for pixels in range(1, 100):
        x = integers(1, 5, 1, pixels)
        assert_right(ops.pointwise_conv2d(x, weight, bias), reference.pointwise_conv2d(x, weight, bias))


def test_every_activation_comes_before_the_residual(isa, integers, activation, assert_right):
    x, weight, bias = integers(1, 6, 9, 9), integers(18, 6, 1, 1) / 4, integers(18)
    residual = integers(1, 18, 9, 9)
    got = ops.pointwise_conv2d(x, weight, bias, activation=activation, residual=residual)
    want = reference.pointwise_conv2d(x, weight, bias, activation=activation, residual=residual)
    assert_right(got, want, activation)


def test_the_residual_is_left_as_it_was(isa, layout, integers):
    x, weight, residual = integers(1, 6, 4, 4), integers(6, 6, 1, 1), integers(1, 6, 4, 4)
    before = residual.clone()
    ops.pointwise_conv2d(x.to(memory_format=layout), weight, residual=residual)
    assert residual.equal(before)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("outputs", [33, 96, 160, 216])
@pytest.mark.parametrize("side", [1, 5, 7])
def test_threads_that_share_a_panel_give_the_same_bits(isa, reals, count, outputs, side):
    """Of five panels each of two threads has two and a half: one has the last one's first pixels."""
    x, weight, added = reals(1, 40, side, side), reals(outputs, 40, 1, 1), reals(1, outputs, side, side)
    found, before = [], torch.get_num_threads()
    for threads in (1, count):
        torch.set_num_threads(threads)
        try:
            found.append(ops.pointwise_conv2d(x, weight, activation="relu6", residual=added))
            found.append(ops.pointwise_conv2d(x, weight, activation="silu", residual=added))
        finally:
            torch.set_num_threads(before)
    for alone, shared in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(shared, alone, rtol=0, atol=1e-4 if isa == "fallback" else 0)


# What is left of the channels behind whole vectors is read with some that were there before.
@pytest.mark.parametrize("where", ["image", "weight"])
@pytest.mark.parametrize("channels", [17, 24, 39])
def test_of_few_filters_each_channel_counts_once(isa, channels, where):
    for channel in range(channels):
        x, weight = torch.ones(1, channels, 5, 5), torch.ones(2, channels, 1, 1)
        if where == "image":
            x[0, channel, 2, 2] = torch.inf
        else:
            weight[1, channel] = torch.inf
        want = torch.from_numpy(reference.pointwise_conv2d(x, weight)).float()
        assert torch.equal(ops.pointwise_conv2d(x, weight), want)
