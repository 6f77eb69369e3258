from __future__ import annotations

from types import SimpleNamespace

import pytest

from ninefold import shape
from ninefold.explanation.layer import LARGEST, Layer, of_module


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["same", "valid", 0, 1, 3])
@pytest.mark.parametrize("size", [1, 5, 14])
def test_the_input_drawn_gives_the_output_and_a_larger_one_does_not(kernel, stride, padding, size):
    try:
        layer = Layer(4, 8, kernel, size, stride, padding)
    except ValueError:
        # Nothing is left to pad: the widest input that gives this output has no pixel.
        assert stride * size + kernel - 1 - 2 * padding < 1
        return
    named = {"same": "same_upper"}.get(padding, padding)
    found = [
        shape.output_size(layer.input_size + more, kernel, stride=stride, padding=named) for more in (0, 1)
    ]
    assert found == [(size, size), (size + 1, size + 1)]


@pytest.mark.parametrize(
    ("numbers", "error", "words"),
    [
        ((0, 8, 3, 14), ValueError, "`in_channels` must be positive, got 0"),
        ((4, -1, 3, 14), ValueError, "`out_channels` must be positive, got -1"),
        ((4, 8, 0, 14), ValueError, "`kernel_size` must be positive, got 0"),
        ((4, 8, 3, 0), ValueError, "`output_size` must be positive, got 0"),
        ((4, 8, "3", 14), TypeError, "`kernel_size` must be an int, got '3'"),
        ((4.0, 8, 3, 14), TypeError, "`in_channels` must be an int, got 4.0"),
        ((True, 8, 3, 14), TypeError, "`in_channels` must be an int, got True"),
        ((4, 8, (3, 5), 14), ValueError, "`kernel_size` must be square to be drawn, got 3×5"),
        ((4, 8, 3, (14, 7)), ValueError, "`output_size` must be square to be drawn, got 14×7"),
        ((20_000, 8, 3, 14), ValueError, "`in_channels` must be at most 16384 to be drawn, got 20000"),
        ((4, 8, 3, 14, 0), ValueError, "`stride` must be positive, got 0"),
        ((4, 8, 3, 14, 1, -1), ValueError, "`padding` must be non-negative, got -1"),
        ((4, 8, 3, 14, 1, "wide"), ValueError, "`padding` must be a number of pixels, 'same' or 'valid'"),
        ((4, 8, 3, 14, 1, (1, 2)), ValueError, "`padding` must be the same on all sides to be drawn"),
        ((4, 8, 3, 1, 1, 9), ValueError, "`padding` must leave an input of at least one pixel"),
        ((4, 8, 3, 14, 1, "same", 0), ValueError, "`multiplier` must be positive, got 0"),
    ],
)
def test_a_bad_number_is_refused_in_words(numbers, error, words):
    with pytest.raises(error) as raised:
        Layer(*numbers)
    assert words in str(raised.value)


def test_pairs_and_names_become_plain():
    layer = Layer(4, 8, (3, 3), (14, 14), (2, 2), (1, 1))
    assert layer == Layer(4, 8, 3, 14, 2, 1)
    assert Layer(4, 8, 3, 14, padding="same_upper").padding == "same"
    assert Layer(*(LARGEST[name] for name in list(LARGEST)[:4])).kernel_size == LARGEST["kernel_size"]


def convolution(**changes):
    numbers = {
        "in_channels": 4,
        "out_channels": 8,
        "kernel_size": (3, 3),
        "stride": (2, 2),
        "padding": (1, 1),
        "dilation": (1, 1),
        "groups": 1,
    }
    return SimpleNamespace(**{**numbers, **changes})


def test_a_convolution_module_is_read_by_its_names():
    assert of_module(convolution(), 14) == Layer(4, 8, 3, 14, 2, 1)
    assert of_module(convolution(padding="same", stride=(1, 1)), 7) == Layer(4, 8, 3, 7)


def test_a_separable_module_is_read_with_its_multiplier():
    depthwise = convolution(groups=4, multiplier=3, padding=(1, 1, 1, 1))
    module = SimpleNamespace(depthwise=depthwise, pointwise=SimpleNamespace(out_channels=32))
    assert of_module(module, 14) == Layer(4, 32, 3, 14, 2, 1, 3)


@pytest.mark.parametrize(
    ("module", "error", "words"),
    [
        (convolution(groups=4), ValueError, "to be compared with a separable one, got groups=4"),
        (convolution(dilation=(2, 2)), ValueError, "must have no dilation to be drawn, got dilation=(2, 2)"),
        (convolution(kernel_size=(1, 7)), ValueError, "`kernel_size` must be square to be drawn, got 1×7"),
        ("conv", TypeError, "or a convolution such as nn.Conv2d, got str"),
        (3.5, TypeError, "or a convolution such as nn.Conv2d, got float"),
    ],
)
def test_what_cannot_be_explained_is_refused(module, error, words):
    with pytest.raises(error) as raised:
        of_module(module, 14)
    assert words in str(raised.value)
