from __future__ import annotations

import re
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ninefold import cost
from ninefold.cost import Cost
from ninefold.shape import ConvShape, pair, separable

counts = st.integers(1, 10**6)
sizes = st.one_of(counts, st.tuples(counts, counts))
multipliers = st.integers(1, 9)


def test_the_definitions_for_the_known_layer():
    # M = 512, N = 1024, Dk = 3, Dg = 14, each product written out.
    assert cost.one_position(512, 3) == Cost(9 * 512, 9 * 512, (1, 1, 1))
    assert cost.one_kernel(512, 3, 14) == Cost(196 * 9 * 512, 9 * 512, (14, 14, 1))
    assert cost.standard(512, 1024, 3, 14) == Cost(924_844_032, 4_718_592, (14, 14, 1024))
    assert cost.depthwise(512, 3, 14) == Cost(903_168, 4_608, (14, 14, 512))
    assert cost.pointwise(512, 1024, 14) == Cost(102_760_448, 524_288, (14, 14, 1024))
    assert cost.separable(512, 1024, 3, 14) == Cost(103_663_616, 528_896, (14, 14, 1024))
    both = cost.compare(512, 1024, 3, 14)
    assert both.ratio == both.parameter_ratio == Fraction(1033, 9216)
    assert (both.ratio.numerator, both.ratio.denominator) == (1033, 9216)


def counted(channels, kernels, kernel, output, *, per_channel):
    """Walk over a layer as the definition does, and count."""
    multiplications, weights, numbers = 0, set(), set()
    for n in range(kernels):
        seen = [n % channels] if per_channel else range(channels)
        for y, x in product(range(output[0]), range(output[1])):
            numbers.add((y, x, n))
            for i, j, c in product(range(kernel[0]), range(kernel[1]), seen):
                multiplications += 1
                weights.add((n, i, j, c))
    assert len(numbers) == output[0] * output[1] * kernels
    return Cost(multiplications, len(weights), (*output, kernels))


@pytest.mark.parametrize("kernel", [1, 2, 3, (3, 1), (2, 4)])
@pytest.mark.parametrize("output", [1, 2, (3, 2)])
@pytest.mark.parametrize(("channels", "kernels"), [(1, 1), (3, 2), (2, 5)])
@pytest.mark.parametrize("multiplier", [1, 3])
def test_counting_by_hand_agrees(channels, kernels, kernel, output, multiplier):
    k, g = pair("kernel", kernel), pair("output", output)
    assert cost.one_position(channels, kernel) == counted(channels, 1, k, (1, 1), per_channel=False)
    assert cost.one_kernel(channels, kernel, output) == counted(channels, 1, k, g, per_channel=False)
    assert cost.standard(channels, kernels, kernel, output) == counted(
        channels, kernels, k, g, per_channel=False
    )
    first = counted(channels, channels * multiplier, k, g, per_channel=True)
    second = counted(channels * multiplier, kernels, (1, 1), g, per_channel=False)
    assert cost.depthwise(channels, kernel, output, multiplier=multiplier) == first
    assert cost.pointwise(channels * multiplier, kernels, output) == second
    both = cost.separable(channels, kernels, kernel, output, multiplier=multiplier)
    assert both.multiplications == first.multiplications + second.multiplications
    assert both.parameters == first.parameters + second.parameters
    assert both.output == second.output


@settings(deadline=None)
@given(in_channels=counts, out_channels=counts, kernel=counts, size=sizes)
def test_the_ratio_is_one_over_n_plus_one_over_dk_squared(in_channels, out_channels, kernel, size):
    both = cost.compare(in_channels, out_channels, kernel, size)
    expected = Fraction(1, out_channels) + Fraction(1, kernel * kernel)
    assert both.ratio == expected
    assert both.parameter_ratio == expected
    assert Fraction(both.separable.multiplications, both.standard.multiplications) == expected


@settings(deadline=None)
@given(in_channels=counts, out_channels=counts, tall=counts, wide=counts, size=sizes, multiplier=multipliers)
def test_the_ratio_of_rectangular_kernels_and_depth_multipliers(
    in_channels, out_channels, tall, wide, size, multiplier
):
    both = cost.compare(in_channels, out_channels, (tall, wide), size, multiplier=multiplier)
    expected = multiplier * (Fraction(1, out_channels) + Fraction(1, tall * wide))
    assert both.ratio == expected
    assert both.parameter_ratio == expected


@settings(deadline=None)
@given(in_channels=counts, out_channels=counts, kernel=sizes, size=sizes, multiplier=multipliers)
def test_separable_is_its_two_stages(in_channels, out_channels, kernel, size, multiplier):
    stages = (
        cost.depthwise(in_channels, kernel, size, multiplier=multiplier),
        cost.pointwise(in_channels * multiplier, out_channels, size),
    )
    whole = cost.separable(in_channels, out_channels, kernel, size, multiplier=multiplier)
    assert whole == stages[0] + stages[1] == sum(stages)


@settings(deadline=None)
@given(
    channels=st.integers(1, 8),
    multiplier=st.integers(1, 4),
    out_channels=st.integers(1, 40),
    kernel=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilation=st.integers(1, 3),
    size=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    batch=st.integers(0, 4),
)
def test_the_cost_of_a_shape_agrees(
    channels, multiplier, out_channels, kernel, stride, dilation, size, batch
):
    first, second = separable(
        (batch, channels, *size),
        (channels * multiplier, 1, *kernel),
        (out_channels, channels * multiplier, 1, 1),
        stride=stride,
        padding="same_upper",
        dilation=dilation,
    )
    standard = ConvShape.standard(
        (batch, channels, *size),
        (out_channels, channels, *kernel),
        stride=stride,
        padding="same_upper",
        dilation=dilation,
    )
    output = first.output_size
    for conv, expected in [
        (first, cost.depthwise(channels, kernel, output, multiplier=multiplier)),
        (second, cost.pointwise(channels * multiplier, out_channels, output)),
        (standard, cost.standard(channels, out_channels, kernel, output)),
    ]:
        assert cost.of(conv) == expected
        assert conv.multiplications == batch * expected.multiplications
        assert conv.parameters == expected.parameters


def test_a_grouped_convolution_lies_between():
    conv = ConvShape.standard((1, 8, 6, 6), (12, 2, 3, 3), groups=4, padding=1)
    assert cost.of(conv) == Cost(6 * 6 * 12 * 2 * 9, 12 * 2 * 9, (6, 6, 12))


def test_the_table_has_every_row_of_the_definitions():
    rows = cost.table(512, 1024, 3, 14)
    assert [row.name for row in rows] == [
        "standard, one kernel, one position",
        "standard, one kernel",
        "standard, 1024 kernels 3×3×512",
        "depthwise, 512 kernels 3×3×1",
        "pointwise, 1024 kernels 1×1×512",
        "separable, depthwise + pointwise",
        "separable / standard",
    ]
    assert [(row.multiplications, row.parameters) for row in rows[:-1]] == [
        (4_608, 4_608),
        (903_168, 4_608),
        (924_844_032, 4_718_592),
        (903_168, 4_608),
        (102_760_448, 524_288),
        (103_663_616, 528_896),
    ]
    assert rows[-1].output is None
    assert rows[-1].multiplications == rows[-1].parameters == Fraction(1033, 9216)


def test_the_table_of_the_smallest_layer_keeps_its_rows():
    # One channel, one kernel, 1×1: the three standard rows hold the same numbers, and must not merge.
    rows = cost.table(1, 1, 1, 1)
    assert len(rows) == 7
    assert rows[2].name == "standard, 1 kernel 1×1×1"
    assert rows[-1].multiplications == 2


def test_the_table_widens_with_the_depth_multiplier():
    rows = cost.table(16, 32, (3, 5), (7, 9), multiplier=2)
    assert rows[3].name == "depthwise, 32 kernels 3×5×1"
    assert rows[3].output == (7, 9, 32)
    assert rows[4].name == "pointwise, 32 kernels 1×1×32"
    assert rows[-1].multiplications == 2 * (Fraction(1, 32) + Fraction(1, 15))


def test_costs_add_only_to_costs():
    one = Cost(1, 2, (1, 1, 1))
    with pytest.raises(TypeError):
        one + 3
    with pytest.raises(TypeError):
        3 + one


GOOD = {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "output_size": 5}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"in_channels": 0}, ValueError, "`in_channels` must be positive, got 0"),
        ({"out_channels": -1}, ValueError, "`out_channels` must be positive, got -1"),
        ({"in_channels": 3.0}, TypeError, "`in_channels` must be an int, got 3.0"),
        ({"in_channels": (3, 3)}, TypeError, "`in_channels` must be an int, got (3, 3)"),
        ({"kernel_size": 0}, ValueError, "`kernel_size` must be positive, got 0"),
        (
            {"kernel_size": (3, 3, 3)},
            ValueError,
            "`kernel_size` must be an int or an (h, w) pair, got (3, 3, 3)",
        ),
        ({"output_size": (5, 0)}, ValueError, "`output_size` must be positive, got (5, 0)"),
        (
            {"output_size": True},
            TypeError,
            "`output_size` must be an int or an (h, w) pair of ints, got True",
        ),
        ({"multiplier": 0}, ValueError, "`multiplier` must be positive, got 0"),
        ({"multiplier": 1.5}, TypeError, "`multiplier` must be an int, got 1.5"),
    ],
)
@pytest.mark.parametrize("function", [cost.compare, cost.separable, cost.table])
def test_bad_sizes_are_refused(function, changes, error, words):
    with pytest.raises(error, match=re.escape(words)):
        function(**{**GOOD, **changes})


def test_the_stages_refuse_bad_sizes_too():
    with pytest.raises(ValueError, match="`channels` must be positive, got 0"):
        cost.depthwise(0, 3, 5)
    with pytest.raises(TypeError, match="`out_channels` must be an int, got '4'"):
        cost.pointwise(3, "4", 5)
    with pytest.raises(ValueError, match="`output_size` must be positive, got -5"):
        cost.one_kernel(3, 3, -5)


@pytest.mark.parametrize(
    ("arguments", "more", "multiplications", "parameters"),
    [
        ((8, 16, (3,), (10,)), {}, 10 * 3 * 8 * 16, 3 * 8 * 16),
        ((8, 16, (3, 5), (10, 7)), {"groups": 4}, 70 * 15 * 8 * 16 // 4, 15 * 8 * 16 // 4),
        ((8, 16, (3, 3, 3), (4, 5, 6)), {}, 120 * 27 * 8 * 16, 27 * 8 * 16),
        ((8, 6, (2, 2), (20, 20)), {"transposed_from": (10, 10)}, 100 * 4 * 8 * 6, 4 * 8 * 6),
        ((8, 8, (3,), (19,)), {"transposed_from": (9,), "groups": 8}, 9 * 3 * 8, 3 * 8),
    ],
)
def test_any_convolution_is_counted(arguments, more, multiplications, parameters):
    counted = cost.convolution(*arguments, **more)
    assert (counted.multiplications, counted.parameters) == (multiplications, parameters)
    assert counted.output == (*arguments[3], arguments[1])


def test_a_convolution_in_two_dimensions_is_the_standard_one():
    assert cost.convolution(512, 1024, (3, 3), (14, 14)) == cost.standard(512, 1024, 3, 14)
    assert cost.convolution(512, 512, (3, 3), (14, 14), groups=512) == cost.depthwise(512, 3, 14)


@pytest.mark.parametrize(
    ("arguments", "more", "words"),
    [
        ((8, 16, (3,), (10,)), {"groups": 3}, "`groups` must divide the 8 input channels, got 3"),
        ((8, 9, (3,), (10,)), {"groups": 4}, "`groups` must divide the 9 output channels, got 4"),
        ((8, 16, (3, 3), (10,)), {}, r"`output_size` must have 2 numbers, as `kernel_size` has, got \(10,\)"),
        ((8, 16, (3,), (10,)), {"transposed_from": (5, 5)}, "`transposed_from` must have 1 numbers"),
        ((8, 16, (0,), (10,)), {}, "`kernel_size` must be positive, got 0"),
    ],
)
def test_a_convolution_that_cannot_be_is_named(arguments, more, words):
    with pytest.raises(ValueError, match=words):
        cost.convolution(*arguments, **more)
