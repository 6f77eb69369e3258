from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ninefold import shape
from ninefold.shape import ConvShape, pair, resolve_padding, separable

X = (2, 6, 8, 9)


def refused(error: type[Exception], words: str):
    return pytest.raises(error, match=re.escape(words))


def padding_of(padding, *, kernel=(3, 3), stride=(1, 1), dilation=(1, 1), size=(8, 9)):
    return resolve_padding(padding, kernel_size=kernel, stride=stride, dilation=dilation, input_size=size)


@pytest.mark.parametrize(
    ("value", "expected"), [(3, (3, 3)), ((1, 2), (1, 2)), ([4, 5], (4, 5)), (10**30, (10**30, 10**30))]
)
def test_pair_accepts_an_int_or_two(value, expected):
    assert pair("stride", value) == expected


def test_pair_accepts_numpy_integers_as_python_ones():
    numpy = pytest.importorskip("numpy")
    height, width = pair("stride", (numpy.int32(2), numpy.int64(3)))
    assert (height, width) == (2, 3)
    assert type(height) is int and type(width) is int


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (0, ValueError, "`stride` must be positive, got 0"),
        ((1, -2), ValueError, "`stride` must be positive, got (1, -2)"),
        ((1, 2, 3), ValueError, "`stride` must be an int or an (h, w) pair, got (1, 2, 3)"),
        ((), ValueError, "`stride` must be an int or an (h, w) pair, got ()"),
        (1.0, TypeError, "`stride` must be an int or an (h, w) pair of ints, got 1.0"),
        (True, TypeError, "`stride` must be an int or an (h, w) pair of ints, got True"),
        ((1, True), TypeError, "`stride` must be an int or an (h, w) pair of ints, got (1, True)"),
        ((1, 2.0), TypeError, "`stride` must be an int or an (h, w) pair of ints, got (1, 2.0)"),
        ("3", TypeError, "`stride` must be an int or an (h, w) pair of ints, got '3'"),
        (None, TypeError, "`stride` must be an int or an (h, w) pair of ints, got None"),
    ],
)
def test_pair_refuses(value, error, words):
    with refused(error, words):
        pair("stride", value)


@pytest.mark.parametrize(
    ("value", "minimum", "error", "words"),
    [
        (0, 1, ValueError, "`groups` must be positive, got 0"),
        (-1, 0, ValueError, "`groups` must be non-negative, got -1"),
        (1, 2, ValueError, "`groups` must be at least 2, got 1"),
        (2.0, 1, TypeError, "`groups` must be an int, got 2.0"),
        (False, 0, TypeError, "`groups` must be an int, got False"),
    ],
)
def test_integer_refuses(value, minimum, error, words):
    with refused(error, words):
        shape.integer("groups", value, minimum=minimum)


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        (0, (0, 0, 0, 0)),
        (2, (2, 2, 2, 2)),
        ((1, 2), (2, 2, 1, 1)),
        ([1, 2], (2, 2, 1, 1)),
        ((1, 2, 3, 4), (1, 2, 3, 4)),
        ("valid", (0, 0, 0, 0)),
        ("same", (1, 1, 1, 1)),
        ("same_upper", (1, 1, 1, 1)),
    ],
)
def test_padding_kinds(padding, expected):
    assert padding_of(padding) == expected


@pytest.mark.parametrize("name", ["same", "same_upper"])
def test_an_odd_total_goes_to_the_right_and_the_bottom(name):
    assert padding_of(name, kernel=(4, 2)) == (0, 1, 1, 2)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "expected"),
    [
        # TensorFlow's rule by hand: outputs are ceil(size / stride), and only what they miss is added.
        ((8, 8), (3, 3), (2, 2), (1, 1), (0, 1, 0, 1)),
        ((7, 8), (3, 3), (2, 2), (1, 1), (0, 1, 1, 1)),
        ((224, 224), (3, 3), (2, 2), (1, 1), (0, 1, 0, 1)),
        ((112, 112), (5, 5), (2, 2), (1, 1), (1, 2, 1, 2)),
        ((8, 8), (1, 1), (2, 2), (1, 1), (0, 0, 0, 0)),
        ((8, 8), (3, 3), (3, 3), (2, 2), (1, 2, 1, 2)),
        ((8, 9), (2, 2), (4, 4), (1, 1), (0, 1, 0, 0)),
    ],
)
def test_same_upper_with_a_stride(size, kernel, stride, dilation, expected):
    assert padding_of("same_upper", size=size, kernel=kernel, stride=stride, dilation=dilation) == expected


small = st.integers(1, 12)
pairs = st.tuples(small, small)


@settings(deadline=None)
@given(size=pairs, kernel=pairs, stride=pairs, dilation=pairs)
def test_same_upper_always_gives_the_ceiling_and_no_row_too_many(size, kernel, stride, dilation):
    sides = padding_of("same_upper", size=size, kernel=kernel, stride=stride, dilation=dilation)
    left, right, top, bottom = sides
    made = shape.output_size(size, kernel, stride=stride, padding=sides, dilation=dilation)
    assert made == tuple(-(-extent // step) for extent, step in zip(size, stride, strict=True))
    assert 0 <= right - left <= 1 and 0 <= bottom - top <= 1
    for before, after, extent, k, s, d, out in zip(
        (top, left), (bottom, right), size, kernel, stride, dilation, made, strict=True
    ):
        assert before + after == 0 or before + extent + after == (out - 1) * s + (k - 1) * d + 1


@pytest.mark.parametrize(
    ("padding", "error", "words"),
    [
        (-1, ValueError, "`padding` must be non-negative, got -1"),
        ((0, -1), ValueError, "`padding` must be non-negative, got (0, -1)"),
        ((0, 0, 0, -3), ValueError, "`padding` must be non-negative, got (0, 0, 0, -3)"),
        (
            (1, 2, 3),
            ValueError,
            "`padding` must be an int, an (h, w) pair, four ints (left, right, top, bottom)",
        ),
        ((1,), ValueError, "got (1,)"),
        (
            "full",
            ValueError,
            "`padding` must be one of 'valid', 'same', 'same_upper', or numbers, got 'full'",
        ),
        (0.5, TypeError, "'valid', 'same' or 'same_upper', got 0.5"),
        ((1, 0.5), TypeError, "got (1, 0.5)"),
        (True, TypeError, "got True"),
        (None, TypeError, "got None"),
    ],
)
def test_padding_refuses(padding, error, words):
    with refused(error, words):
        padding_of(padding)


@pytest.mark.parametrize("stride", [(2, 1), (1, 2)])
def test_same_is_refused_with_a_stride(stride):
    with refused(
        ValueError, f"`padding='same'` is not supported for strided convolutions, got stride {stride}"
    ):
        padding_of("same", stride=stride)


def test_activations():
    for name in shape.ACTIVATIONS:
        assert shape.check_activation(name) == name
    with refused(ValueError, "`activation` must be one of None, 'relu', "):
        shape.check_activation("tanh")
    with refused(ValueError, "'sigmoid', got 'ReLU'"):
        shape.check_activation("ReLU")
    with refused(TypeError, "`depthwise_activation` must be one of None, 'relu'"):
        shape.check_activation(len, argument="depthwise_activation")


def test_residual_must_have_the_outputs_shape():
    shape.check_residual([1, 2, 3, 4], (1, 2, 3, 4))
    with refused(ValueError, "`residual` must have the output's shape (1, 2, 3, 4), got (1, 2, 1, 1)"):
        shape.check_residual((1, 2, 1, 1), (1, 2, 3, 4))


def test_a_standard_convolution():
    conv = ConvShape.standard(
        X, (4, 3, 3, 5), stride=2, padding=(1, 2), dilation=(2, 1), groups=2, bias_shape=(4,)
    )
    assert conv == ConvShape(
        in_channels=6,
        out_channels=4,
        kernel_size=(3, 5),
        stride=(2, 2),
        padding=(2, 2, 1, 1),
        dilation=(2, 1),
        groups=2,
        input_size=(8, 9),
        batch=2,
    )
    assert conv.output_size == (3, 5)
    assert conv.input_shape == X and conv.weight_shape == (4, 3, 3, 5) and conv.output_shape == (2, 4, 3, 5)
    assert (conv.channels_per_group, conv.multiplier) == (3, 2)
    assert not conv.is_depthwise and not conv.is_pointwise
    assert conv.parameters == 4 * 3 * 3 * 5
    assert conv.multiplications == 2 * 4 * 3 * 5 * (3 * 3 * 5)


def test_both_stages_of_a_separable_convolution():
    first, second = separable(
        X, (12, 1, 3, 3), (5, 12, 1, 1), padding="same", depthwise_bias_shape=(12,), pointwise_bias_shape=(5,)
    )
    assert first.is_depthwise and not first.is_pointwise
    assert first.multiplier == 2 and first.output_shape == (2, 12, 8, 9)
    assert second.is_pointwise and not second.is_depthwise
    assert second.input_shape == first.output_shape and second.output_shape == (2, 5, 8, 9)
    assert first == ConvShape.depthwise(X, (12, 1, 3, 3), padding=1)
    assert second == ConvShape.pointwise(first.output_shape, (5, 12, 1, 1))


@pytest.mark.parametrize(
    "changes", [{"stride": 2}, {"padding": 1}, {"groups": 2}, {"weight_shape": (4, 6, 1, 2)}]
)
def test_what_is_not_pointwise(changes):
    arguments = {"weight_shape": (4, 6 // changes.get("groups", 1), 1, 1), **changes}
    assert not ConvShape.standard(X, **arguments).is_pointwise
    assert ConvShape.standard(X, (4, 6, 1, 1)).is_pointwise


def test_an_empty_batch_costs_nothing():
    conv = ConvShape.standard((0, 3, 8, 8), (4, 3, 3, 3))
    assert conv.output_shape == (0, 4, 6, 6)
    assert conv.multiplications == 0


def test_sizes_beyond_64_bits_are_exact():
    huge = 10**25
    conv = ConvShape.standard((1, huge, huge, huge), (huge, huge, 1, 1))
    assert conv.multiplications == 10**100
    assert shape.numel(conv.output_shape) == 10**75


def test_the_convolution_must_fit():
    words = (
        "`kernel_size` must fit the padded input: 3×3 with dilation 4×1 spans 9×3, got a padded input of 8×9"
    )
    with refused(ValueError, words):
        ConvShape.standard(X, (4, 6, 3, 3), dilation=(4, 1))
    with refused(ValueError, "spans 3×12, got a padded input of 8×11"):
        ConvShape.depthwise(X, (6, 1, 3, 12), padding=(1, 1, 0, 0))
    assert ConvShape.standard(X, (4, 6, 8, 9)).output_size == (1, 1)


STANDARD = [
    (
        {"x_shape": (6, 8, 9)},
        ValueError,
        "`x` must have 4 dimensions (batch, channels, height, width), got 3",
    ),
    ({"x_shape": (1, 2, 6, 8, 9)}, ValueError, "`x` must have 4 dimensions"),
    ({"x_shape": (2, 0, 8, 9)}, ValueError, "`x` must have a positive number of channels, height and width"),
    ({"x_shape": (2, 6, 0, 9)}, ValueError, "got shape (2, 6, 0, 9)"),
    ({"x_shape": (2, 6, 8, -9)}, ValueError, "got shape (2, 6, 8, -9)"),
    ({"x_shape": (-1, 6, 8, 9)}, ValueError, "`x` must have a non-negative batch, got shape (-1, 6, 8, 9)"),
    ({"x_shape": (2, 6, 8, 9.0)}, TypeError, "`x` must be of a shape made of ints"),
    ({"x_shape": (True, 6, 8, 9)}, TypeError, "got (True, 6, 8, 9)"),
    ({"x_shape": None}, TypeError, "`x` must be of a shape made of ints"),
    (
        {"weight_shape": (4, 6, 3)},
        ValueError,
        "`weight` must have 4 dimensions (out_channels, in_channels/groups",
    ),
    ({"weight_shape": (0, 6, 3, 3)}, ValueError, "`weight` must have positive sizes, got shape (0, 6, 3, 3)"),
    ({"weight_shape": (4, 6, 3, 0)}, ValueError, "`weight` must have positive sizes, got shape (4, 6, 3, 0)"),
    (
        {"weight_shape": (4, 5, 3, 3)},
        ValueError,
        "`weight` must take 6 input channels (`x` has 6), got 5 in shape (4, 5, 3, 3)",
    ),
    (
        {"groups": 2},
        ValueError,
        "`weight` must take 3 input channels (`x` has 6 in 2 groups), got 6 in shape",
    ),
    ({"groups": 4}, ValueError, "`groups` must divide the 6 input channels, got 4"),
    (
        {"groups": 3, "weight_shape": (4, 2, 3, 3)},
        ValueError,
        "`groups` must divide the 4 output channels, got 3",
    ),
    ({"groups": 0}, ValueError, "`groups` must be positive, got 0"),
    ({"groups": 2.0}, TypeError, "`groups` must be an int, got 2.0"),
    (
        {"bias_shape": (5,)},
        ValueError,
        "`bias` must have shape (4,), one number per output channel, got (5,)",
    ),
    (
        {"bias_shape": (4, 1)},
        ValueError,
        "`bias` must have shape (4,), one number per output channel, got (4, 1)",
    ),
    ({"bias_shape": ()}, ValueError, "`bias` must have shape (4,), one number per output channel, got ()"),
    ({"stride": 0}, ValueError, "`stride` must be positive, got 0"),
    ({"dilation": (1, 0)}, ValueError, "`dilation` must be positive, got (1, 0)"),
    ({"padding": -1}, ValueError, "`padding` must be non-negative, got -1"),
]


@pytest.mark.parametrize(("changes", "error", "words"), STANDARD)
def test_a_standard_convolution_refuses(changes, error, words):
    with refused(error, words):
        ConvShape.standard(**{"x_shape": X, "weight_shape": (4, 6, 3, 3), **changes})


SEPARABLE = [
    ({"x_shape": (6, 8, 9)}, ValueError, "`x` must have 4 dimensions"),
    (
        {"depthwise_weight_shape": (6, 6, 3, 3)},
        ValueError,
        "`depthwise_weight` must have shape (channels·multiplier, 1, kh, kw), got (6, 6, 3, 3)",
    ),
    (
        {"depthwise_weight_shape": (8, 1, 3, 3)},
        ValueError,
        "`depthwise_weight` must have a multiple of the 6 channels of `x` as output channels, got 8",
    ),
    ({"depthwise_weight_shape": (3, 1, 3, 3)}, ValueError, "multiple of the 6 channels of `x`"),
    ({"depthwise_bias_shape": (5,)}, ValueError, "`depthwise_bias` must have shape (6,)"),
    ({"pointwise_bias_shape": (6,)}, ValueError, "`pointwise_bias` must have shape (4,)"),
    (
        {"pointwise_weight_shape": (4, 6, 3, 3)},
        ValueError,
        "`pointwise_weight` must have a 1×1 kernel, got 3×3 in shape (4, 6, 3, 3)",
    ),
    (
        {"pointwise_weight_shape": (4, 12, 1, 1)},
        ValueError,
        "`pointwise_weight` must take 6 input channels (the depthwise stage makes 6), got 12",
    ),
    ({"pointwise_weight_shape": (4, 6, 1, 2)}, ValueError, "must have a 1×1 kernel, got 1×2"),
    ({"pointwise_weight_shape": (4, 6, 2, 1)}, ValueError, "must have a 1×1 kernel, got 2×1"),
    ({"pointwise_weight_shape": (4, 6)}, ValueError, "`pointwise_weight` must have 4 dimensions"),
    ({"residual_shape": (2, 4, 8, 9)}, ValueError, "`residual` must have the output's shape (2, 4, 6, 7)"),
    ({"stride": 1.5}, TypeError, "`stride` must be an int or an (h, w) pair of ints, got 1.5"),
]


@pytest.mark.parametrize(("changes", "error", "words"), SEPARABLE)
def test_a_separable_convolution_refuses(changes, error, words):
    good = {"x_shape": X, "depthwise_weight_shape": (6, 1, 3, 3), "pointwise_weight_shape": (4, 6, 1, 1)}
    with refused(error, words):
        separable(**{**good, **changes})


def test_the_single_stages_name_their_own_arguments():
    with refused(ValueError, "`weight` must have shape (channels·multiplier, 1, kh, kw), got (6, 2, 3, 3)"):
        ConvShape.depthwise(X, (6, 2, 3, 3))
    with refused(ValueError, "`bias` must have shape (6,)"):
        ConvShape.depthwise(X, (6, 1, 3, 3), bias_shape=(1,))
    with refused(ValueError, "`weight` must take 6 input channels (`x` has 6), got 5 in shape (4, 5, 1, 1)"):
        ConvShape.pointwise(X, (4, 5, 1, 1))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"in_channels": 0}, ValueError, "`in_channels` must be positive, got 0"),
        ({"out_channels": 2.5}, TypeError, "`out_channels` must be an int, got 2.5"),
        ({"kernel_size": 3}, TypeError, "`kernel_size` must be an (h, w) pair of ints, got 3"),
        ({"kernel_size": (3, 0)}, ValueError, "`kernel_size` must be positive, got (3, 0)"),
        ({"kernel_size": (9, 1)}, ValueError, "`kernel_size` must fit the padded input"),
        ({"stride": (1, 2, 3)}, ValueError, "`stride` must be an int or an (h, w) pair, got (1, 2, 3)"),
        (
            {"padding": (1, 1)},
            TypeError,
            "`padding` must be four ints (left, right, top, bottom), got (1, 1)",
        ),
        ({"padding": (0, 0, 0, -1)}, ValueError, "`padding` must be non-negative, got -1"),
        ({"groups": 5}, ValueError, "`groups` must divide the 6 input channels, got 5"),
        ({"groups": 3}, ValueError, "`groups` must divide the 4 output channels, got 3"),
        ({"batch": -1}, ValueError, "`batch` must be non-negative, got -1"),
    ],
)
def test_the_plain_constructor_refuses(changes, error, words):
    good = {"in_channels": 6, "out_channels": 4, "kernel_size": (3, 3), "input_size": (8, 9)}
    with refused(error, words):
        ConvShape(**{**good, **changes})


class Symbol:
    """Stands in for a tracer's size: it can be computed with, but asking for its value would pin it."""

    node = None

    def __init__(self, value):
        self.value = value

    def __index__(self):
        raise AssertionError("the size was pinned")

    def __lt__(self, other):
        return self.value < other

    def __add__(self, other):
        return Symbol(self.value + other)

    def __sub__(self, other):
        return Symbol(self.value - other)

    def __mul__(self, other):
        return Symbol(self.value * other)

    def __floordiv__(self, other):
        return Symbol(self.value // other)

    def __neg__(self):
        return Symbol(-self.value)


def test_symbolic_sizes_stay_symbolic():
    batch, height = Symbol(3), Symbol(8)
    conv = ConvShape.standard((batch, 6, height, 9), (4, 6, 3, 3), padding=1, stride=2)
    assert conv.output_shape[0] is batch
    assert isinstance(conv.output_size[0], Symbol) and conv.output_size[0].value == 4


@pytest.mark.parametrize("padding", ["same", "same_upper"])
def test_at_stride_1_a_symbolic_size_does_not_reach_the_padding(padding):
    conv = ConvShape.standard((1, 6, Symbol(8), Symbol(9)), (4, 6, 3, 4), padding=padding)
    assert conv.padding == (1, 2, 1, 1)


@settings(deadline=None)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=pairs,
    stride=pairs,
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    sides=st.tuples(*[st.integers(0, 3)] * 4),
)
def test_the_output_size_is_the_number_of_places_where_the_kernel_fits(size, kernel, stride, dilation, sides):
    left, right, top, bottom = sides
    places = []
    for extent, k, s, d in zip(
        (size[0] + top + bottom, size[1] + left + right), kernel, stride, dilation, strict=True
    ):
        places.append(sum(start + (k - 1) * d < extent for start in range(0, extent, s)))
    arguments = {"stride": stride, "padding": sides, "dilation": dilation}
    if 0 in places:
        with refused(ValueError, "`kernel_size` must fit the padded input"):
            shape.output_size(size, kernel, **arguments)
    else:
        assert shape.output_size(size, kernel, **arguments) == tuple(places)
