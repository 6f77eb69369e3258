from __future__ import annotations

import math
import re

import numpy as np
import pytest

from ninefold import reference
from ninefold.shape import ACTIVATIONS, PADDINGS, resolve_padding

torch = pytest.importorskip("torch")
functional = torch.nn.functional

CLOSE = {"rtol": 1e-12, "atol": 1e-12}

TORCH = {
    None: lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "silu": functional.silu,
    "hardswish": functional.hardswish,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "hardsigmoid": functional.hardsigmoid,
    "sigmoid": torch.sigmoid,
}


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def with_torch(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1, activation=None):
    """PyTorch's answer in float64; the input is padded beforehand, as it has not every kind of padding."""
    both = [(v, v) if isinstance(v, int) else v for v in (stride, dilation)]
    sides = resolve_padding(
        padding, kernel_size=weight.shape[2:], stride=both[0], dilation=both[1], input_size=x.shape[2:]
    )
    padded = functional.pad(torch.from_numpy(x), sides)
    bias = None if bias is None else torch.from_numpy(bias)
    out = functional.conv2d(padded, torch.from_numpy(weight), bias, stride, 0, dilation, groups)
    return TORCH[activation](out).numpy()


GEOMETRY = [
    {},
    {"padding": 1},
    {"padding": (2, 1), "stride": (1, 2)},
    {"padding": (0, 1, 2, 3), "stride": 2},
    {"padding": "same"},
    {"padding": "same", "dilation": (2, 1)},
    {"padding": "same_upper", "stride": 2},
    {"padding": "same_upper", "stride": (3, 2), "dilation": (1, 2)},
    {"stride": 3},
]


@pytest.mark.parametrize("geometry", GEOMETRY, ids=str)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 3), (5, 1), (4, 4)], ids=str)
@pytest.mark.parametrize(("channels", "kernels", "groups"), [(3, 5, 1), (6, 4, 2), (4, 8, 4)])
def test_conv2d_is_pytorchs(geometry, kernel, channels, kernels, groups):
    x, weight = drawn(0, 2, channels, 11, 10), drawn(1, kernels, channels // groups, *kernel)
    bias = drawn(2, kernels)
    expected = with_torch(x, weight, bias, groups=groups, activation="silu", **geometry)
    actual = reference.conv2d(x, weight, bias, groups=groups, activation="silu", **geometry)
    np.testing.assert_allclose(actual, expected, **CLOSE)


@pytest.mark.parametrize("padding", [0, 1, *PADDINGS])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_padding_names_are_pytorchs_own(padding):
    x, weight = drawn(3, 1, 2, 7, 8), drawn(4, 3, 2, 4, 3)
    own = "same" if padding == "same_upper" else padding
    expected = functional.conv2d(torch.from_numpy(x), torch.from_numpy(weight), padding=own).numpy()
    np.testing.assert_allclose(reference.conv2d(x, weight, padding=padding), expected, **CLOSE)


@pytest.mark.parametrize("geometry", GEOMETRY, ids=str)
@pytest.mark.parametrize("multiplier", [1, 2, 3])
def test_depthwise_is_pytorchs_grouped_convolution(geometry, multiplier):
    x, weight, bias = drawn(5, 2, 5, 9, 12), drawn(6, 5 * multiplier, 1, 3, 4), drawn(7, 5 * multiplier)
    expected = with_torch(x, weight, bias, groups=5, activation="hardswish", **geometry)
    actual = reference.depthwise_conv2d(x, weight, bias, activation="hardswish", **geometry)
    np.testing.assert_allclose(actual, expected, **CLOSE)
    grouped = reference.conv2d(x, weight, bias, groups=5, activation="hardswish", **geometry)
    np.testing.assert_allclose(actual, grouped, **CLOSE)


def test_depthwise_output_channels_are_ordered_by_input_channel():
    x = np.array([1.0, 10.0]).reshape(1, 2, 1, 1)
    weight = np.array([2.0, 3.0, 5.0, 7.0]).reshape(4, 1, 1, 1)
    assert reference.depthwise_conv2d(x, weight).ravel().tolist() == [2.0, 3.0, 50.0, 70.0]


def test_pointwise_is_pytorchs_and_adds_the_residual_last():
    x, weight, bias = drawn(8, 3, 7, 4, 5), drawn(9, 6, 7, 1, 1), drawn(10, 6)
    residual = drawn(11, 3, 6, 4, 5)
    expected = with_torch(x, weight, bias, activation="relu6") + residual
    actual = reference.pointwise_conv2d(x, weight, bias, activation="relu6", residual=residual)
    np.testing.assert_allclose(actual, expected, **CLOSE)
    assert actual.min() < 0, "a residual under the activation would leave nothing negative"


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_separable_is_both_stages_in_pytorch(biased, multiplier):
    middle = 4 * multiplier
    x, first, second = drawn(12, 2, 4, 9, 9), drawn(13, middle, 1, 3, 3), drawn(14, 5, middle, 1, 1)
    biases = (drawn(15, middle), drawn(16, 5)) if biased else (None, None)
    residual = drawn(17, 2, 5, 5, 5)
    between = with_torch(x, first, biases[0], stride=2, padding="same_upper", groups=4, activation="relu")
    expected = with_torch(between, second, biases[1], activation="silu") + residual
    actual = reference.separable_conv2d(
        x,
        first,
        second,
        *biases,
        stride=2,
        padding="same_upper",
        depthwise_activation="relu",
        activation="silu",
        residual=residual,
    )
    np.testing.assert_allclose(actual, expected, **CLOSE)


def test_a_kernel_worked_out_by_hand():
    x = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    weight = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 1, 2, 2)
    # 1·1 + 2·2 + 3·4 + 4·5 = 37, and each step right adds 10, each step down 30.
    assert reference.conv2d(x, weight).tolist() == [[[[37.0, 47.0], [67.0, 77.0]]]]
    assert reference.conv2d(x, weight, stride=2, padding=(1, 0, 0, 0)).tolist() == [[[[18.0, 47.0]]]]


def test_integers_in_float32_come_out_exact():
    generator = np.random.default_rng(18)
    x = generator.integers(-8, 9, (1, 33, 6, 6)).astype(np.float32)
    weight = generator.integers(-8, 9, (17, 33, 3, 3)).astype(np.float32)
    out = reference.conv2d(x, weight, padding=1)
    assert out.dtype == np.float64
    whole = functional.conv2d(torch.from_numpy(x).double(), torch.from_numpy(weight).double(), padding=1)
    np.testing.assert_array_equal(out, whole.numpy())


def test_the_table_of_activations_is_the_contracts():
    assert set(TORCH) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_pytorchs_at_the_edges_too(name):
    edges = [math.nan, math.inf, -math.inf, 0.0, -0.0, 3.0, -3.0, 6.0, 1e300, -1e300, 1e-300]
    x = np.concatenate([np.linspace(-12, 12, 241), edges])
    expected = TORCH[name](torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(reference.activate(x, name), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_travels_through_every_operator(name):
    x = np.zeros((1, 2, 3, 3))
    x[0, 1, 1, 1] = math.nan
    depthwise = reference.depthwise_conv2d(x, np.ones((2, 1, 1, 1)), activation=name)
    assert np.isnan(depthwise).sum() == 1 and math.isnan(depthwise[0, 1, 1, 1])
    pointwise = reference.pointwise_conv2d(x, np.ones((4, 2, 1, 1)), activation=name)
    assert np.isnan(pointwise).sum() == 4 and np.isnan(pointwise[0, :, 1, 1]).all()
    standard = reference.conv2d(x, np.ones((1, 2, 3, 3)), padding=1, activation=name)
    assert np.isnan(standard).all()


def test_an_empty_batch_gives_an_empty_output():
    assert reference.conv2d(np.zeros((0, 3, 5, 5)), np.zeros((4, 3, 3, 3))).shape == (0, 4, 3, 3)
    assert reference.separable_conv2d(
        np.zeros((0, 3, 5, 5)), np.zeros((6, 1, 3, 3)), np.zeros((4, 6, 1, 1)), padding=1
    ).shape == (0, 4, 5, 5)


def test_the_inputs_are_left_alone():
    x, weight, residual = drawn(19, 1, 3, 4, 4), drawn(20, 3, 3, 1, 1), drawn(21, 1, 3, 4, 4)
    before = x.copy(), weight.copy(), residual.copy()
    reference.pointwise_conv2d(x, weight, activation="relu", residual=residual)
    for array, copy in zip((x, weight, residual), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: reference.conv2d(x[0], np.ones((2, 3, 1, 1))), "`x` must have 4 dimensions"),
        (lambda x: reference.conv2d(x, np.ones((2, 2, 1, 1))), "`weight` must take 3 input channels"),
        (lambda x: reference.conv2d(x, np.ones((2, 3, 1, 1)), np.ones(3)), "`bias` must have shape (2,)"),
        (
            lambda x: reference.conv2d(x, np.ones((2, 3, 1, 1)), activation="mish"),
            "`activation` must be one of",
        ),
        (lambda x: reference.depthwise_conv2d(x, np.ones((4, 1, 1, 1))), "multiple of the 3 channels"),
        (lambda x: reference.pointwise_conv2d(x, np.ones((2, 3, 3, 3))), "1×1 kernel"),
        (
            lambda x: reference.pointwise_conv2d(x, np.ones((2, 3, 1, 1)), residual=x),
            "`residual` must have the output's shape (1, 2, 4, 4), got (1, 3, 4, 4)",
        ),
        (
            lambda x: reference.separable_conv2d(x, np.ones((3, 1, 1, 1)), np.ones((2, 4, 1, 1))),
            "`pointwise_weight` must take 3 input channels",
        ),
        (
            lambda x: reference.separable_conv2d(
                x, np.ones((3, 1, 1, 1)), np.ones((2, 3, 1, 1)), depthwise_activation="mish"
            ),
            "`depthwise_activation` must be one of",
        ),
    ],
)
def test_bad_arguments_are_refused(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call(drawn(22, 1, 3, 4, 4))
