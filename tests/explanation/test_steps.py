from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninefold import cost
from ninefold.explanation import Layer
from ninefold.explanation.drawing import Scene
from ninefold.explanation.steps import steps

layers = st.builds(
    Layer,
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 31),
    st.integers(1, 60),
    multiplier=st.integers(1, 4),
)


@given(layers, st.sampled_from(["en", "zh"]))
def test_the_steps_count_up_to_the_whole_layer(layer, language):
    found = steps(Scene(layer, language))
    assert (found[0].standard, found[0].separable) == (0, 0)
    for before, after in pairwise(found):
        assert after.standard >= before.standard and after.separable >= before.separable
    both = cost.compare(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.output_size,
        multiplier=layer.multiplier,
    )
    assert found[-1].standard == both.standard.multiplications
    assert found[-1].separable == both.separable.multiplications
    assert len(found) <= 20 and not any("{" in step.says for step in found)


def test_the_first_number_is_dearer_and_the_second_pays():
    found = steps(Scene(Layer(512, 1024, 3, 14), "en"))
    first, second = found[-4], found[-3]
    assert "first output number" in first.says
    assert (first.standard, first.separable) == (9 * 512, 9 * 512 + 512)
    assert (second.standard, second.separable) == (2 * 9 * 512, 9 * 512 + 2 * 512)


@pytest.mark.parametrize(("kernel", "taps"), [(1, 1), (3, 9), (7, 7), (11, 11), (12, 1)])
def test_a_large_kernel_is_read_by_rows_or_at_once(kernel, taps):
    found = steps(Scene(Layer(1, 1, kernel, 1), "en"))
    assert len([step for step in found if step.says.startswith("Channel 1")]) == taps
