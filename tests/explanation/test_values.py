from __future__ import annotations

from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninefold import cost
from ninefold.explanation import Layer
from ninefold.explanation.values import decimal, shares, values, verdict

layers = st.builds(
    Layer,
    st.integers(1, 16384),
    st.integers(1, 16384),
    st.integers(1, 31),
    st.integers(1, 1024),
    st.integers(1, 16),
    multiplier=st.integers(1, 16),
)


def test_the_known_layer():
    shown = values(Layer(512, 1024, 3, 14))
    assert shown["standard"] == "924,844,032" and shown["separable"] == "103,663,616"
    assert shown["standard_parameters"] == "4,718,592" and shown["separable_parameters"] == "528,896"
    assert (shown["ratio_terms"], shown["ratio_fraction"]) == ("1/1024 + 1/9", "1033/9216")
    assert (shown["about"], shown["ratio"], shown["times"], shown["percent"]) == (
        "≈",
        "0.1121",
        "8.92",
        "11.2",
    )
    # 924,844,032 / (512 · 14² + 4,718,592 + 1024 · 14²), and the depthwise stage's.
    assert (shown["standard_moved"], shown["standard_intensity"]) == ("5,019,648", "184")
    assert (shown["depthwise_moved"], shown["depthwise_intensity"]) == ("205,312", "4.4")


@given(layers)
def test_counts_are_those_of_cost(layer):
    shown = values(layer)
    M, N, Dk, Dg, m = (
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.output_size,
        layer.multiplier,
    )
    both = cost.compare(M, N, Dk, Dg, multiplier=m)
    for name, each in (
        ("standard", both.standard),
        ("separable", both.separable),
        ("depthwise", cost.depthwise(M, Dk, Dg, multiplier=m)),
        ("pointwise", cost.pointwise(M * m, N, Dg)),
        ("one_position", cost.one_position(M, Dk)),
        ("one_kernel", cost.one_kernel(M, Dk, Dg)),
    ):
        assert shown[name] == f"{each.multiplications:,}"
        assert shown[f"{name}_parameters"] == f"{each.parameters:,}"
    assert Fraction(shown["ratio_fraction"]) == both.ratio == m * (Fraction(1, N) + Fraction(1, Dk * Dk))
    assert verdict(layer) == ("cheaper" if both.ratio < 1 else "dearer" if both.ratio > 1 else "equal")
    lengths = shares(layer)
    assert max(lengths["standard"], lengths["depthwise"] + lengths["pointwise"]) == pytest.approx(1)
    assert lengths["standard"] * both.ratio == pytest.approx(lengths["depthwise"] + lengths["pointwise"])


@given(st.fractions(Fraction(1, 10**6), 10**9), st.integers(2, 5))
def test_a_decimal_is_rounded_half_up_to_its_digits(value, digits):
    shown, exact = decimal(value, digits)
    wide = Decimal(value.numerator) / Decimal(value.denominator)
    short = Context(prec=digits, rounding=ROUND_HALF_UP).create_decimal(wide)
    # Above 1 all whole digits are kept.
    if value >= 10**digits:
        short = wide.to_integral_value(ROUND_HALF_UP)
    assert Decimal(shown.replace(",", "")) == short
    assert exact == (Fraction(shown.replace(",", "")) == value)


@pytest.mark.parametrize(
    ("layer", "word", "times"),
    [
        (Layer(1, 1, 1, 1), "dearer", "2"),
        (Layer(8, 2, 2, 4, multiplier=1), "cheaper", "1.33"),
        (Layer(8, 4, 2, 4, multiplier=2), "equal", "1"),
        (Layer(8, 1, 3, 4), "dearer", "1.11"),
    ],
)
def test_a_layer_that_saves_nothing_is_called_so(layer, word, times):
    assert (verdict(layer), values(layer)["times"]) == (word, times)
