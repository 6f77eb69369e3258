"""Marks on paper: labels, boxes seen from above, grids, dots. Lengths are a picture's own units.

`script/marks.js` makes the same.
"""

from __future__ import annotations

import math

from . import text

ACROSS, UP = 0.42, 0.3  # of a box's depth, on paper


def px(length: float) -> str:
    """A length to a tenth, half up, as JavaScript writes it."""
    tenths = math.floor(length * 10 + 0.5)
    return str(tenths // 10) if tenths % 10 == 0 else str(tenths / 10)


def label(content: str, x: float, y: float, kind: str, anchor: str) -> str:
    """A line of text whose symbols are set as symbols."""
    place = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{kind}" x="{px(x)}" y="{px(y)}"{place}>{text.as_svg(content)}</text>'


def solid(x: float, y: float, front: float, deep: float, kind: str) -> str:
    """A box whose front's upper left corner is at x, y: front, top and right side, lit from above."""
    across, up = ACROSS * deep, UP * deep
    top = f"M{px(x)} {px(y)}l{px(across)} {px(-up)}h{px(front)}l{px(-across)} {px(up)}z"
    right = f"M{px(x + front)} {px(y)}l{px(across)} {px(-up)}v{px(front)}l{px(-across)} {px(up)}z"
    return (
        f'<g class="{kind}"><path d="{square(x, y, front)}"/><path d="{top}"/><path d="{right}"/>'
        f'<path class="lit" d="{top}"/><path class="dim" d="{right}"/></g>'
    )


def square(x: float, y: float, side: float) -> str:
    """The path of a square."""
    return f"M{px(x)} {px(y)}h{px(side)}v{px(side)}h{px(-side)}z"


def grid(x: float, y: float, side: float, cells: int) -> str:
    """The lines between a kernel's cells, where they can be told apart."""
    step = side / cells
    if cells == 1 or step < 3:
        return ""
    lines = "".join(
        f"M{px(x + step * cell)} {px(y)}v{px(side)}M{px(x)} {px(y + step * cell)}h{px(side)}"
        for cell in range(1, cells)
    )
    return f'<path class="grid" d="{lines}"/>'


def sheets(x: float, y: float, front: float, deep: float, channels: int) -> str:
    """Cuts between channels along the depth, as many as can be seen."""
    cuts = min(channels, math.floor(deep / 8 + 0.5))
    lines = []
    for cut in range(1, cuts):
        across, up = ACROSS * deep * cut / cuts, UP * deep * cut / cuts
        lines.append(f"M{px(x + across)} {px(y - up)}h{px(front)}v{px(front)}")
    return f'<path class="grid" d="{"".join(lines)}"/>' if lines else ""


def dots(x: float, y: float) -> str:
    """Three dots for what is left out."""
    return "".join(f'<circle class="dot" cx="{px(x)}" cy="{px(y + shift)}" r="1.6"/>' for shift in (-6, 0, 6))
