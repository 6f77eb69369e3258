"""Plots as SVG, without a library: rows of dots, one colour for each series, light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LEFT, _RIGHT, _ROW, _HEAD = 860, 190, 24, 22, 58
# Told apart in grey too, by shape: circles, diamonds, squares and triangles.
_COLOURS = ("#8a6d3b", "#b9762f", "#c2509b", "#3f6fb5", "#6a55b8", "#6b7a1f", "#b3261e")
_OURS = "#0b7a6f"
_STYLE = """
text { font: 12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1b2024; }
.title { font-weight: 650; font-size: 14px; } .soft { fill: #5c666e; }
.ground { fill: #ffffff; } .line { stroke: #e4e1d9; } .limit { stroke: #1b2024; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
text { fill: #e9ecee; } .soft { fill: #9aa5ad; } .ground { fill: #1c2226; }
.line { stroke: #2c343a; } .limit { stroke: #ffffff; } }
"""


@dataclass(frozen=True)
class Row:
    """One line of dots: a value for each series that has one."""

    name: str
    values: dict[str, float]


@dataclass(frozen=True)
class Panel:
    """Rows under a title."""

    title: str
    rows: tuple[Row, ...]


def dots(title: str, panels: Sequence[Panel], series: Sequence[str], *, ours: str, limit: float = 1.0) -> str:
    """Panels below each other on one logarithmic axis, with a line at `limit`; `ours` is drawn on top.

    Raises ValueError where there is no value to draw, or one that is not positive.
    """
    values = [value for panel in panels for row in panel.rows for value in row.values.values()]
    if not values or min(values) <= 0:
        raise ValueError(f"`panels` must have positive values, got {min(values, default=None)}")
    low, high = min(*values, limit) / 1.08, max(*values, limit) * 1.08

    def x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log(value / low) / math.log(high / low)

    others = [name for name in series if name != ours]
    colours = dict(zip(others, _COLOURS * 3, strict=False)) | {ours: _OURS}
    legend_rows = -(-len(series) // 5)
    top = 34 + 20 * legend_rows
    parts = [f'<text class="title" x="14" y="22">{escape(title)}</text>']
    for position, name in enumerate(series):
        left, y = 24 + 166 * (position % 5), 46 + 20 * (position // 5)
        parts.append(_mark(left, y - 4, colours[name], series.index(name), name == ours))
        parts.append(f'<text x="{left + 10}" y="{y}">{escape(name)}</text>')
    for panel in panels:
        bottom = top + _HEAD + _ROW * len(panel.rows)
        parts.append(f'<text class="title" x="14" y="{top + 30}">{escape(panel.title)}</text>')
        for tick in _ticks(low, high):
            parts.append(f'<path class="line" d="M{x(tick):.1f} {top + 46}V{bottom - 6}"/>')
            parts.append(
                f'<text class="soft" x="{x(tick):.1f}" y="{top + 40}" text-anchor="middle">{tick:g}</text>'
            )
        parts.append(f'<path class="limit" d="M{x(limit):.1f} {top + 46}V{bottom - 6}"/>')
        for number, row in enumerate(panel.rows):
            y = top + _HEAD + _ROW * number
            parts.append(
                f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(row.name)}</text>'
                f'<path class="line" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>'
            )
            for name in [*(name for name in others if name in row.values), ours]:
                if name in row.values:
                    mark = _mark(x(row.values[name]), y, colours[name], series.index(name), name == ours)
                    parts.append(f"<g><title>{escape(name)}: {row.values[name]:.2f}</title>{mark}</g>")
        top = bottom
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 8}" role="img" '
        f'aria-label="{escape(title)}"><style>{_STYLE}</style>'
        f'<rect class="ground" width="100%" height="100%"/>{"".join(parts)}</svg>\n'
    )


def _mark(x: float, y: float, colour: str, number: int, large: bool) -> str:
    r = 6 if large else 4.2
    shapes = (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        f"M{x:.1f} {y - r:.1f}l{r} {r}l{-r} {r}l{-r} {-r}z",
        f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z",
        f"M{x:.1f} {y - r:.1f}l{r} {2 * r}h{-2 * r}z",
    )
    return f'<path fill="{colour}" d="{shapes[0 if large else number % len(shapes)]}"/>'


def _ticks(low: float, high: float) -> list[float]:
    steps = [1, 1.5, 2, 3, 4, 6, 8]
    found = [step * 10.0**power for power in range(-3, 4) for step in steps]
    return [tick for tick in found if low <= tick <= high]
