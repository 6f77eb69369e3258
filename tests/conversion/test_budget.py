"""The budget's spread, against trying everything."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ninefold.conversion.budget import Option, spread
from ninefold.conversion.layers import Choice

LAYER = st.lists(st.tuples(st.integers(1, 60), st.floats(0.001, 1)), min_size=1, max_size=4)


def options(layers: list[list[tuple[int, float]]]) -> dict[str, list[Option]]:
    return {
        str(i): [Option(None, 100, 0.0), *(Option(Choice("depthwise", 1), cost, loss) for cost, loss in each)]
        for i, each in enumerate(layers)
    }


@settings(max_examples=200, deadline=None)
@given(st.lists(LAYER, min_size=1, max_size=4), st.floats(0, 1))
def test_it_keeps_the_budget_and_loses_little_more_than_the_best(layers, share) -> None:
    given_ = options(layers)
    least = sum(min(each.multiplications for each in some) for some in given_.values())
    allowed = int(least + share * (100 * len(layers) - least))
    chosen = spread(given_, allowed)
    assert sum(each.multiplications for each in chosen.values()) <= allowed
    everything = itertools.product(*given_.values())
    best = min(
        sum(each.error for each in some)
        for some in everything
        if sum(each.multiplications for each in some) <= allowed
    )
    # Greedy along lower hulls is off by at most one step of one layer.
    step = max(each.error for some in given_.values() for each in some)
    assert sum(each.error for each in chosen.values()) <= best + step + 1e-9


def test_the_layer_that_loses_least_goes_first() -> None:
    cheap, dear = [(10, 0.01)], [(10, 0.5)]
    chosen = spread(options([dear, cheap]), 110)
    assert [each.error for each in chosen.values()] == [0.0, 0.01]


def test_what_is_left_is_used() -> None:
    chosen = spread(options([[(10, 0.9), (30, 0.8)], [(10, 0.9)]]), 41)
    assert sorted(each.error for each in chosen.values()) == [0.8, 0.9]


def test_all_of_it_leaves_everything_as_it_is() -> None:
    assert all(each.choice is None for each in spread(options([[(10, 0.1)]] * 3), 300).values())


def test_too_little_is_refused() -> None:
    with pytest.raises(ValueError, match="`allowed` must be at least 20, got 19"):
        spread(options([[(10, 0.1)], [(10, 0.1)]]), 19)
