"""The eight pictures as files: valid, alike in both languages, and unchanged unless someone meant it."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ninefold.explanation import Explanation, Layer
from ninefold.explanation.marks import px

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"

# Folder -> what it holds; written again by `.save(folder)`, or by the command line for the first.
GOLDEN = {
    "docs/pictures": Explanation(Layer(512, 1024, 3, 14)),
    "tests/explanation/golden": Explanation(Layer(3, 16, 7, 5, stride=2, multiplier=2), "zh"),
}


@pytest.mark.parametrize("folder", GOLDEN)
def test_the_pictures_are_the_golden_files(folder):
    kept = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / folder).glob("*.svg")}
    drawn = GOLDEN[folder].pictures
    assert kept.keys() == drawn.keys()
    changed = [name for name in drawn if drawn[name] != kept[name]]
    assert not changed, f"if meant: {GOLDEN[folder].layer}, saved to {folder}/"


def test_there_are_eight_in_their_order():
    assert list(Explanation(Layer(1, 1, 1, 1)).pictures) == [
        "1-standard.svg",
        "2-standard-cost.svg",
        "3-two-stages.svg",
        "4-depthwise.svg",
        "5-pointwise.svg",
        "6-separable-cost.svg",
        "7-multiplications.svg",
        "8-parameters.svg",
    ]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "layer", [Layer(512, 1024, 3, 14), Layer(1, 1, 1, 1), Layer(16384, 16384, 31, 1024, 16, "same", 16)]
)
def test_a_picture_is_svg_that_stands_alone(layer, language):
    for name, source in Explanation(layer, language).pictures.items():
        root = ElementTree.fromstring(source)
        assert root.tag == f"{SVG}svg" and root.get("role") == "img"
        left, top, width, height = map(float, root.get("viewBox").split())
        assert (left, top) == (0, 0) and (root.get("width"), root.get("height")) == (
            f"{width:g}",
            f"{height:g}",
        )
        named = [root.find(f"{SVG}title"), root.find(f"{SVG}desc")]
        assert [each.get("id") for each in named] == root.get("aria-labelledby").split(), name
        assert all(each.text for each in named)
        # Nothing is fetched, nothing is left to fill, no colour waits for a page's variables.
        assert "href" not in source and "url(" not in source and "var(" not in source
        assert "prefers-color-scheme: dark" in source
        texts = ["".join(each.itertext()) for each in root.iter(f"{SVG}text")]
        assert texts and not any(re.search(r"[{}@~]|None|nan", each) for each in texts)


def test_a_box_is_as_long_as_the_logarithm_of_its_number():
    root = ElementTree.fromstring(Explanation(Layer(7, 63, 3, 15)).pictures["1-standard.svg"])
    fronts = [
        float(re.search(r"h([\d.]+)v", group.find(f"{SVG}path").get("d"))[1])
        for group in root.iter(f"{SVG}g")
    ]
    image, window, kernel = fronts[:3]
    # log2(1 + 15) = 4 and log2(1 + 3) = 2, on one scale.
    assert image == pytest.approx(2 * kernel, abs=0.2) and window == kernel


@pytest.mark.parametrize(
    ("length", "written"), [(0, "0"), (-0.0, "0"), (12, "12"), (0.25, "0.3"), (-0.25, "-0.2"), (99.96, "100")]
)
def test_lengths_are_written_as_javascript_writes_them(length, written):
    assert px(length) == written
