from __future__ import annotations

import re

import pytest

from ninefold.reporting import drawings


def test_a_bar_is_as_wide_as_its_share() -> None:
    svg = drawings.bar(0.25, kind="fast", label="a & b")
    assert '<rect class="fast" width="25.00%"' in svg and 'aria-label="a &amp; b"' in svg
    assert "mark" not in svg
    assert 'class="mark" x="50.00%"' in drawings.bar(0.25, kind="fast", label="", mark=0.5)


def test_what_is_not_zero_stays_visible() -> None:
    assert 'width="0.40%"' in drawings.bar(1e-6, kind="fast", label="")
    assert 'class="fast" width="0.00%"' in drawings.bar(0, kind="fast", label="")


@pytest.mark.parametrize("arguments", [{"share": 1.1}, {"share": -0.1}, {"share": 0.5, "mark": 2.0}])
def test_a_share_is_from_0_to_1(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be from 0 to 1, got"):
        drawings.bar(**arguments, kind="fast", label="")  # type: ignore[arg-type]


def test_towers_are_in_proportion() -> None:
    svg = drawings.skyline([("a", 25, 100), ("<b>", 50, 50)], label="costs")
    heights = {(kind, float(h)) for kind, h in re.findall(r'class="(ghost|tower)".*?height="([\d.]+)"', svg)}
    assert heights == {("ghost", 100.0), ("tower", 25.0), ("ghost", 50.0), ("tower", 50.0)}
    assert 'viewBox="0 0 20 100"' in svg and "<b>" not in svg
    assert "a: 25 multiplications, standard 100" in svg


def test_no_layers_is_an_error() -> None:
    with pytest.raises(ValueError, match="`costs` must have a layer to draw, got none"):
        drawings.skyline([], label="")
