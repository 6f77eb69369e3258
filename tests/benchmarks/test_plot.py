from __future__ import annotations

import re
from importlib import import_module
from types import ModuleType
from xml.etree import ElementTree

import pytest


@pytest.fixture
def plot() -> ModuleType:
    return import_module("plot")


def test_a_dot_for_every_value_in_proportion_on_a_logarithmic_axis(plot: ModuleType) -> None:
    rows = (plot.Row("a & b", {"one": 2.0, "ours": 1.0}), plot.Row("c", {"one": 4.0}))
    drawn = plot.dots("a title", [plot.Panel("panel", rows)], ["one", "ours"], ours="ours")
    ElementTree.fromstring(drawn)
    titles = re.findall(r"<title>(.*?)</title>", drawn)
    assert titles == ["one: 2.00", "ours: 1.00", "one: 4.00"]
    # A diamond starts at its top, a circle at its left.
    first, ours, second = (
        float(found) for found in re.findall(r'</title><path fill="\S+" d="M([\d.]+)', drawn)
    )
    assert second - first == pytest.approx(first - (ours + 6), abs=9)
    assert "a &amp; b" in drawn


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_what_has_no_logarithm_is_refused(plot: ModuleType, value: float) -> None:
    panel = plot.Panel("panel", (plot.Row("a", {"one": value}),))
    with pytest.raises(ValueError, match="`panels` must have positive values, got"):
        plot.dots("a title", [panel], ["one"], ours="one")
