"""Bad arguments: one clear error, before any work."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ninefold import ops

X = torch.zeros(1, 4, 6, 6)
STANDARD, DEPTHWISE, POINTWISE = torch.zeros(8, 4, 3, 3), torch.zeros(4, 1, 3, 3), torch.zeros(5, 4, 1, 1)


def conv(x=X, weight=STANDARD, bias=None, **options):
    return ops.conv2d(x, weight, bias, **options)


def depthwise(x=X, weight=DEPTHWISE, bias=None, **options):
    return ops.depthwise_conv2d(x, weight, bias, **options)


def pointwise(x=X, weight=POINTWISE, bias=None, **options):
    return ops.pointwise_conv2d(x, weight, bias, **options)


def separable(x=X, depthwise_weight=DEPTHWISE, pointwise_weight=POINTWISE, **options):
    return ops.separable_conv2d(x, depthwise_weight, pointwise_weight, **options)


VALUE_ERRORS = [
    (conv, {"x": X[0]}, r"`x` must have 4 dimensions .*got 3"),
    (conv, {"x": X[:, :3]}, r"`weight` must take 3 input channels .*got 4"),
    (conv, {"groups": 3}, r"`groups` must divide the 4 input channels, got 3"),
    (conv, {"groups": 0}, r"`groups` must be positive, got 0"),
    (conv, {"padding": -1}, r"`padding` must be non-negative, got -1"),
    (conv, {"padding": (1, 2, 3)}, r"`padding` must be .*got \(1, 2, 3\)"),
    (conv, {"padding": "full"}, r"`padding` must be one of .*got 'full'"),
    (conv, {"padding": "same", "stride": 2}, r"`padding='same'` is not supported for strided"),
    (conv, {"stride": 0}, r"`stride` must be positive, got 0"),
    (conv, {"stride": (1, 1, 1)}, r"`stride` must be an int or an \(h, w\) pair"),
    (conv, {"dilation": 3}, r"`kernel_size` must fit the padded input"),
    (conv, {"bias": torch.zeros(7)}, r"`bias` must have shape \(8,\)"),
    (conv, {"activation": "swish"}, r"`activation` must be one of .*got 'swish'"),
    (conv, {"weight": STANDARD[:0]}, r"`weight` must have positive sizes"),
    (conv, {"x": X[:, :, :0]}, r"`x` must have a positive number"),
    (
        depthwise,
        {"weight": torch.zeros(4, 2, 3, 3)},
        r"`weight` must have shape \(channels·multiplier, 1, kh, kw\)",
    ),
    (depthwise, {"weight": torch.zeros(6, 1, 3, 3)}, r"`weight` must have a multiple of the 4 channels"),
    (pointwise, {"weight": STANDARD}, r"`weight` must have a 1×1 kernel, got 3×3"),
    (
        pointwise,
        {"residual": X},
        r"`residual` must have the output's shape \(1, 5, 6, 6\), got \(1, 4, 6, 6\)",
    ),
    (
        separable,
        {"pointwise_weight": torch.zeros(5, 3, 1, 1)},
        r"`pointwise_weight` must take 4 input channels",
    ),
    (separable, {"depthwise_bias": torch.zeros(5)}, r"`depthwise_bias` must have shape \(4,\)"),
    (separable, {"depthwise_activation": "tanh"}, r"`depthwise_activation` must be one of .*got 'tanh'"),
    (separable, {"residual": torch.zeros(1, 5, 1, 1)}, r"`residual` must have the output's shape"),
]
TYPE_ERRORS = [
    (conv, {"x": np.zeros((1, 4, 6, 6))}, r"`x` must be a torch.Tensor, got ndarray"),
    (conv, {"weight": None}, r"`weight` must be a torch.Tensor, got NoneType"),
    (conv, {"bias": 1.0}, r"`bias` must be a torch.Tensor, got float"),
    (
        conv,
        {"weight": STANDARD.double()},
        r"`weight` must have the dtype of `x` \(torch.float32\), got torch.float64",
    ),
    (conv, {"weight": STANDARD.to("meta")}, r"`weight` must be on the device of `x` \(cpu\), got meta"),
    (conv, {"stride": 1.0}, r"`stride` must be an int or an \(h, w\) pair of ints, got 1.0"),
    (conv, {"stride": (1.0, 1)}, r"`stride` must be an int or an \(h, w\) pair of ints, got \(1.0, 1\)"),
    (conv, {"dilation": True}, r"`dilation` must be an int .*got True"),
    (conv, {"groups": 1.0}, r"`groups` must be an int, got 1.0"),
    (conv, {"padding": None}, r"`padding` must be .*got None"),
    (conv, {"activation": torch.relu}, r"`activation` must be one of"),
    (pointwise, {"residual": [1.0]}, r"`residual` must be a torch.Tensor, got list"),
    (pointwise, {"residual": X.half()}, r"`residual` must have the dtype of `x`"),
    (separable, {"pointwise_weight": POINTWISE.half()}, r"`pointwise_weight` must have the dtype of `x`"),
]


@pytest.mark.parametrize(("call", "bad", "words"), VALUE_ERRORS)
def test_bad_values(call, bad, words):
    with pytest.raises(ValueError, match=words):
        call(**bad)


@pytest.mark.parametrize(("call", "bad", "words"), TYPE_ERRORS)
def test_bad_types(call, bad, words):
    with pytest.raises(TypeError, match=words):
        call(**bad)


def test_a_float_is_not_taken_for_the_int_seen_before():
    conv(stride=(1, 1))
    with pytest.raises(TypeError, match="`stride`"):
        conv(stride=(1.0, 1))


def test_lists_and_numpy_numbers_do():
    want = conv(stride=(2, 1), padding=(1, 0)).shape
    assert conv(stride=[2, 1], padding=[1, 0]).shape == want
    assert conv(stride=(np.int64(2), 1), padding=(np.int32(1), 0)).shape == want
