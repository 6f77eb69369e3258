"""Draws what pictures.json lists: boxes, stacks of kernels, rows of channels, bars and labels, as SVG.

A box's front is its image, its depth its channels. Sides grow with the logarithm of their number, and in a
picture the same length is the same number wherever boxes have one scale; bars are in proportion.
`script/drawing.js` draws the same in the page, and a test holds that the two agree to the letter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from . import text
from .layer import Layer
from .marks import ACROSS, UP, dots, grid, label, px, sheets, solid, square
from .values import numbers, shares, values, verdict

WIDTH = 420
_WIDEST = 104
# Characters of a large number, or of a label, beyond which it is set smaller.
_LONG, _LONG_LABEL = 16, 20
_Item = Mapping[str, Any]


@cache
def pictures() -> list[dict[str, Any]]:
    """What each of the eight shows, from pictures.json."""
    found: list[dict[str, Any]] = json.loads(
        files(__package__).joinpath("pictures.json").read_text(encoding="utf-8")
    )
    return found


class Scene:
    """One layer in one language, ready to be drawn."""

    def __init__(self, layer: Layer, language: str) -> None:
        self.words = _chosen(text.catalogue(language), layer)
        self.values = values(layer)
        self.numbers = numbers(layer)
        self.shares = shares(layer)
        self.unit = 1.0
        boxes = [("Df", "M"), ("Dg", "N"), ("Dg", "MM"), ("Dk", "M")]
        fits = min(_WIDEST / self.extent(side, depth, 1)[0] for side, depth in boxes)
        # Three kernels one above the other, if that does not make everything small.
        self.unit = min(15, fits, max(9.5, 51 / self.extent("Dk", "M", 1)[1]))

    def side(self, name: str, scale: float) -> float:
        """The length that a number is drawn to."""
        return self.unit * scale * math.log2(1 + self.numbers[name])

    def extent(self, side: str, depth: str, scale: float) -> tuple[float, float]:
        """Width and height on paper of a box."""
        front, deep = self.side(side, scale), self.side(depth, scale)
        return front + ACROSS * deep, front + UP * deep

    def fill(self, template: str) -> str:
        """A text of pictures.json or the catalogue with this layer's numbers."""
        return text.fill(template, self.words, self.values)

    def draw(self, picture: _Item, number: int) -> str:
        """One picture, by its place among the eight, as an <svg> element, coloured by the style sheet."""
        name = picture["name"]
        title = self.fill(f"{number} · @title_{number}")
        description = self.fill(f"@alt_{number}")
        body = "".join(
            _DRAWERS[kind](self, item) for item in picture["items"] for kind in item if kind in _DRAWERS
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="picture" '
            f'viewBox="0 0 {WIDTH} {picture["height"]}" role="img" '
            f'aria-labelledby="{name}-title {name}-description">'
            f'<title id="{name}-title">{escape(text.as_words(title))}</title>'
            f'<desc id="{name}-description">{escape(text.as_words(description))}</desc>'
            f"{label(title, 14, 25, 'title', 'start')}{body}</svg>"
        )


def _chosen(words: Mapping[str, str], layer: Layer) -> dict[str, str]:
    # Some phrases are others with a depth multiplier, and the verdict depends on the ratio.
    wide = {name.removesuffix("_wide"): words[name] for name in words if name.endswith("_wide")}
    return {**words, **(wide if layer.multiplier > 1 else {}), "verdict": words[f"verdict_{verdict(layer)}"]}


def _box(scene: Scene, item: _Item) -> str:
    side, depth = item["box"]
    scale = item.get("scale", 1)
    kind = item["kind"]
    front, deep = scene.side(side, scale), scene.side(depth, scale)
    x, y = _corner(scene, item["at"], side, depth, scale)
    parts = [solid(x, y, front, deep, item.get("whole", kind))]
    if item.get("grid"):
        parts.append(grid(x, y, front, scene.numbers[side]))
    if item.get("sheets"):
        parts.append(sheets(x, y, front, deep, scene.numbers[depth]))
    if "slice" in item:
        parts.append(solid(x, y, front, min(deep, scene.side("1", scale)), item["slice"] + " pale"))
        dot = min(front, scene.side("1", scale))
        parts.append(f'<path class="{item["slice"]} strong" d="{square(x, y, dot)}"/>')
    if "window" in item:
        name, colour = item["window"]
        window = scene.side(name, scale)
        if window <= front:
            parts.append(solid(x, y, window, deep, colour))
        else:
            over = (window - front) / 2
            parts.append(f'<path class="{colour} outline" d="{square(x - over, y - over, window)}"/>')
    return "".join(parts) + _edges(scene, item, x, y, front, deep)


def _stack(scene: Scene, item: _Item) -> str:
    side, depth = item["stack"]
    scale = item.get("scale", 1)
    front, deep = scene.side(side, scale), scene.side(depth, scale)
    height = scene.extent(side, depth, scale)[1] + 8
    shown = _shown(scene.numbers[item["count"]], item["room"], height)
    y = item["at"][1] - _total(shown, height) / 2
    parts = []
    for index in shown:
        if index == 0:
            parts.append(dots(item["at"][0], y + _GAP / 2))
            y += _GAP
            continue
        left, top = _corner(scene, (item["at"][0], y + height / 2), side, depth, scale)
        parts.append(solid(left, top, front, deep, item["kind"]))
        parts.append(grid(left, top, front, scene.numbers[side]))
        if index == shown[-1]:
            parts.append(_edges(scene, item, left, top, front, deep))
        y += height
    return "".join(parts)


def _rows(scene: Scene, item: _Item) -> str:
    height = item["row"]
    tallest = max(scene.extent(side, "1", 1)[1] for side in ("Df", "Dk", "Dg"))
    scale = min(1, (height - 6) / tallest)
    shown = _shown(scene.numbers[item["rows"]], item["room"], height)
    cards = min(3, scene.numbers["m"])
    y = item["at"][1] - _total(shown, height) / 2
    parts: list[str] = []
    for index in shown:
        if index == 0:
            parts.extend(dots(x, y + _GAP / 2) for x in (item["at"][0], *item["columns"]))
            y += _GAP
            continue
        centre = y + height / 2
        parts.append(label(str(index), item["at"][0], centre + 5, "number", "middle"))
        for column, side, count, kind in (
            (0, "Df", 1, "data"),
            (1, "Dk", cards, "depthwise"),
            (2, "Dg", cards, "data"),
        ):
            apart = min(22, scene.side(side, scale) + 9)
            for card in range(count):
                shift = apart * (card - (count - 1) / 2)
                left, top = _corner(scene, (item["columns"][column] + shift, centre), side, "1", scale)
                front, thin = scene.side(side, scale), scene.side("1", scale)
                parts.append(solid(left, top, front, thin, kind))
                if column == 1:
                    parts.append(grid(left, top, front, scene.numbers[side]))
                elif column == 2:
                    parts.append(f'<path class="depthwise pale" d="{square(left, top, front)}"/>')
        for sign, left, right in (("∗", 0, 1), ("→", 1, 2)):
            middle = (item["columns"][left] + item["columns"][right]) / 2
            parts.append(label(sign, middle, centre + 7, "sign", "middle"))
        y += height
    return "".join(parts)


def _bar(scene: Scene, item: _Item) -> str:
    x, y = item["at"]
    thick = item["thick"]
    parts = [f'<rect class="track" x="{x}" y="{y}" width="{item["width"]}" height="{thick}" rx="3"/>']
    left = float(x)
    for kind, share in item["bar"]:
        # What is not zero stays visible.
        wide = max(1.0, item["width"] * scene.shares[share])
        wide = min(wide, x + item["width"] - left)
        parts.append(f'<rect class="{kind}" x="{px(left)}" y="{y}" width="{px(wide)}" height="{thick}"/>')
        left += wide
    return "".join(parts)


def _labels(scene: Scene, item: _Item) -> str:
    x, y = item["at"]
    kinds = ("name", "symbol", "number")[-len(item["labels"]) :]
    parts = []
    for row, (line, kind) in enumerate(zip(item["labels"], kinds, strict=True)):
        content = scene.fill(line)
        size = " long" if len(content) > _LONG_LABEL else ""
        parts.append(label(content, x, y + 19 * row, f"label {kind}{size}", "middle"))
    return "".join(parts)


def _words(scene: Scene, item: _Item) -> str:
    x, y = item["at"]
    content = scene.fill(item["text"])
    kind = item["class"] + (" long" if len(content) > _LONG else "")
    return label(content, x, y, kind, item.get("anchor", "start"))


def _sign(scene: Scene, item: _Item) -> str:
    return label(item["sign"], item["at"][0], item["at"][1] + 7, "sign", "middle")


def _rule(scene: Scene, item: _Item) -> str:
    x, y = item["at"]
    return f'<path class="rule" d="M{x} {y}h{item["rule"]}"/>'


def _swatch(scene: Scene, item: _Item) -> str:
    x, y = item["at"]
    return f'<rect class="{item["swatch"]}" x="{x}" y="{y}" width="11" height="11" rx="2"/>'


_DRAWERS = {
    "box": _box,
    "stack": _stack,
    "rows": _rows,
    "bar": _bar,
    "labels": _labels,
    "text": _words,
    "sign": _sign,
    "rule": _rule,
    "swatch": _swatch,
}
_GAP = 22


def _corner(scene: Scene, at: Any, side: str, depth: str, scale: float) -> tuple[float, float]:
    # The front's upper left corner, for a box whose outline is centred at `at`.
    wide, high = scene.extent(side, depth, scale)
    return at[0] - wide / 2, at[1] + high / 2 - scene.side(side, scale)


def _edges(scene: Scene, item: _Item, x: float, y: float, front: float, deep: float) -> str:
    if "edges" not in item:
        return ""
    below, along = (scene.fill(edge) for edge in item["edges"])
    return label(below, x + front / 2, y + front + 14, "edge", "middle") + label(
        along, x + front + ACROSS * deep / 2 + 5, y + front - UP * deep / 2 + 12, "edge", "start"
    )


def _shown(count: int, room: float, height: float) -> list[int]:
    # Which of `count` are drawn, from 1; 0 stands for those left out.
    shown = list(range(1, count + 1)) if count <= 3 else [1, 2, 0, count]
    return shown if _total(shown, height) <= room or count <= 2 else [1, 0, count]


def _total(shown: list[int], height: float) -> float:
    return sum(height if index else _GAP for index in shown)
