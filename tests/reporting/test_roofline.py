from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from ninefold.reporting.roofline import points, roofline


def test_every_layer_is_a_point_where_its_numbers_say(report):
    found = points(report)
    assert len(found["pytorch"]) == 4
    # What Ninefold leaves to PyTorch is no kernel of its own.
    assert [point.row for point in found["ninefold"]] == [0, 1]
    first = found["pytorch"][0]
    assert first.intensity == report.rows[0].intensity
    assert first.gflops == pytest.approx(2 * 42_336 / 2e-5 / 1e9)
    assert [point.shape for point in found["pytorch"]] == ["circle", "triangle", "square", "circle"]
    assert found["ninefold"][1].shape == "diamond"
    assert sum(point.share for point in found["pytorch"]) == pytest.approx(1)


def test_the_drawing_is_whole_and_nothing_is_markup(report):
    svg = ElementTree.fromstring(roofline(report, width=1000, height=520, name="wide"))
    marks = [each for each in svg.iter() if each.get("data-row") is not None]
    assert [each.get("data-row") for each in marks].count("3") == 1 and len(marks) == 6
    text = " ".join(each.text or "" for each in svg.iter() if each.tag.endswith("text"))
    assert "peak 100 GFLOP/s" in text and "L2 66 GB/s" in text and "DRAM 17 GB/s" in text
    titles = [each.text for each in svg.iter() if each.tag.endswith("title")]
    assert any("=up</script><b>" in str(title) for title in titles)


def test_no_point_lies_above_the_roof_it_is_under(report):
    svg = str(roofline(report, width=1000, height=520, name="wide"))
    roofs = [float(y) for y in re.findall(r'class="roof" d="M[\d.]+ ([\d.]+)H', svg)]
    circles = [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', svg)]
    assert len(roofs) == 1 and circles and min(circles) > roofs[0]


def test_fewer_multiplications_than_are_counted_lie_above_the_roof_and_in_the_drawing(report):
    fast = replace(report.blocks[1], seconds=2 * report.blocks[1].multiplications / 350e9)
    svg = str(roofline(replace(report, blocks=(report.blocks[0], fast)), width=1000, height=520, name="wide"))
    roof = float(re.search(r'class="roof" d="M[\d.]+ ([\d.]+)H', svg)[1])
    marks = svg[svg.index('class="points ninefold"') :]
    heights = [float(y) for y in re.findall(r'<path d="M[\d.-]+ ([\d.-]+)l', marks)]
    assert 0 < min(heights) < roof
