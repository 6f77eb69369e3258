"""The roofline of a machine, and every layer of a network under it, as SVG; the page's CSS has the colours.

Both axes are logarithmic: operations per byte to the right, operations per second upwards. A layer's shapes
decide how far right it lies, the machine how high the roof above it is; the gap between the two is lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from .data import Machine
from .facts import Report

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 26, 46
_SMALLEST, _LARGEST = 3.0, 11.0
_KINDS = {"depthwise": "triangle", "pointwise": "square", "linear": "square", "fused": "diamond"}


@dataclass(frozen=True)
class Point:
    """A layer in the plot: operations per byte, GFLOP/s, share of the time, what a pointer is told."""

    intensity: float
    gflops: float
    share: float
    shape: str
    row: int
    title: str


def points(report: Report) -> dict[str, list[Point]]:
    """The layers of the plain network one by one, and Ninefold's blocks: "pytorch" and "ninefold"."""
    found: dict[str, list[Point]] = {"pytorch": [], "ninefold": []}
    total = sum(row.seconds for row in report.rows) or 1.0
    for row in report.rows:
        if row.seconds:
            speed = 2 * row.multiplications / row.seconds / 1e9
            title = f"{row.name}, {row.kind} {row.what}, PyTorch: {_words(speed, row.seconds, row.intensity)}"
            shape = _KINDS.get(row.kind, "circle")
            share = row.seconds / total
            found["pytorch"].append(Point(row.intensity, speed, share, shape, row.position, title))
    leaders = {row.block: row.position for row in reversed(report.rows) if row.block is not None}
    total = sum(block.seconds or 0 for block in report.blocks) or 1.0
    for index, block in enumerate(report.blocks):
        if block.seconds and block.bytes and block.how != "PyTorch" and index in leaders:
            speed = 2 * block.multiplications / block.seconds / 1e9
            names = " + ".join(block.names)
            title = f"{names}, Ninefold, {block.how}: {_words(speed, block.seconds, block.intensity)}"
            kind = report.rows[leaders[index]].kind
            shape = _KINDS["fused"] if block.how == "fused" else _KINDS.get(kind, "circle")
            share = block.seconds / total
            found["ninefold"].append(Point(block.intensity, speed, share, shape, leaders[index], title))
    return found


def roofline(report: Report, *, width: int, height: int, name: str) -> Markup:
    """The plot as an <svg> element of that size, its ids beginning with `name`."""
    found = points(report)
    scale = _Scale.of([each for some in found.values() for each in some], report.machine, width, height)
    parts = [*_axes(scale), *_roofs(scale, report.machine)]
    for kind, some in found.items():
        largest_first = sorted(some, key=lambda point: -point.share)
        parts.append(
            f'<g class="points {kind}">{"".join(_mark(scale, point) for point in largest_first)}</g>'
        )
    counts = f"{len(found['pytorch'])} layers in PyTorch and {len(found['ninefold'])} kernels in Ninefold"
    peak = f"{report.machine.gflops:.0f} GFLOP/s"
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" class="roofline {name}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-labelledby="{name}-title {name}-description">'
        f'<title id="{name}-title">Roofline</title>'
        f'<desc id="{name}-description">{counts} of {escape(report.network)}, by operations per byte and '
        f"operations per second, under this machine's limits: {peak} and the bandwidths of its memories. The "
        f"table below has every number.</desc>{''.join(parts)}</svg>"
    )


@dataclass(frozen=True)
class _Scale:
    """From operations per byte and GFLOP/s to places on paper."""

    width: int
    height: int
    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def of(cls, found: Sequence[Point], machine: Machine, width: int, height: int) -> _Scale:
        ridge = machine.gflops / min(each.gigabytes_per_second for each in machine.bandwidths)
        across = [*(point.intensity for point in found), ridge, 1.0]
        up = [*(point.gflops for point in found), machine.gflops / 20]
        return cls(
            width,
            height,
            (10 ** math.floor(math.log10(min(across))), 1.4 * max(across)),
            # With fewer multiplications than are counted (Winograd's) a convolution lies above the roof.
            (0.7 * min(up), max(1.7 * machine.gflops, 1.2 * max(up))),
        )

    def across(self, intensity: float) -> float:
        low, high = self.x
        return _LEFT + (self.width - _LEFT - _RIGHT) * math.log(intensity / low) / math.log(high / low)

    def up(self, gflops: float) -> float:
        low, high = self.y
        inside = self.height - _TOP - _BOTTOM
        return self.height - _BOTTOM - inside * math.log(max(gflops, low) / low) / math.log(high / low)


def _axes(scale: _Scale) -> list[str]:
    floor, parts = scale.height - _BOTTOM, []
    for value in _ticks(*scale.x):
        x = scale.across(value)
        parts.append(f'<path class="tick" d="M{x:.1f} {_TOP}V{floor}"/>')
        parts.append(_text(f"{value:g}", x, floor + 17, "soft", "middle"))
    for value in _ticks(*scale.y):
        y = scale.up(value)
        parts.append(f'<path class="tick" d="M{_LEFT} {y:.1f}H{scale.width - _RIGHT}"/>')
        parts.append(_text(f"{value:g}", _LEFT - 7, y + 4, "soft", "end"))
    parts.append(_text("operations per byte", (_LEFT + scale.width) / 2, scale.height - 8, "soft", "middle"))
    parts.append(_text("GFLOP/s", 4, 14, "soft", "start"))
    return parts


def _roofs(scale: _Scale, machine: Machine) -> list[str]:
    right, top = scale.width - _RIGHT, scale.up(machine.gflops)
    parts, ends = [], []
    for level in machine.bandwidths:
        ridge = machine.gflops / level.gigabytes_per_second
        # A roof begins where it enters the plot: at its left edge, or at its floor.
        begin = max(scale.x[0], scale.y[0] / level.gigabytes_per_second)
        x, y = scale.across(begin), scale.up(begin * level.gigabytes_per_second)
        parts.append(f'<path class="roof" d="M{x:.1f} {y:.1f}L{scale.across(ridge):.1f} {top:.1f}"/>')
        ends.append((f"{level.level} {level.gigabytes_per_second:.0f} GB/s", ridge))
    lowest = min(ridge for _, ridge in ends)
    parts.append(f'<path class="roof" d="M{scale.across(lowest):.1f} {top:.1f}H{right}"/>')
    parts.append(_text(f"peak {machine.gflops:.0f} GFLOP/s", right, top - 7, "name halo", "end"))
    # Labels follow their roof's slope and stand above it, under the lowest one, away from the marks.
    across = scale.across(10 * scale.x[0]) - scale.across(scale.x[0])
    up = scale.up(scale.y[0]) - scale.up(10 * scale.y[0])
    angle = math.atan2(up, across)
    for index, (words, ridge) in enumerate(ends):
        bandwidth = machine.gflops / ridge
        begin = max(scale.x[0], scale.y[0] / bandwidth)
        at = begin * (ridge / begin) ** (0.5 if index < len(ends) - 1 else 0.4)
        away = -16 if index == len(ends) - 1 else 6
        x = scale.across(at) - away * math.sin(angle)
        y = scale.up(at * bandwidth) - away * math.cos(angle)
        turn = f' transform="rotate({-math.degrees(angle):.1f} {x:.1f} {y:.1f})"'
        parts.append(_text(words, x, y, "soft halo", "middle", turn))
    return parts


def _mark(scale: _Scale, point: Point) -> str:
    x, y = scale.across(point.intensity), scale.up(point.gflops)
    r = _SMALLEST + (_LARGEST - _SMALLEST) * math.sqrt(min(1.0, 8 * point.share))
    drawn = {
        "circle": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>',
        "square": _polygon((x, y), (-0.9 * r, -0.9 * r), (1.8 * r, 0), (0, 1.8 * r), (-1.8 * r, 0)),
        "triangle": _polygon((x, y), (0, -1.15 * r), (1.1 * r, 2 * r), (-2.2 * r, 0)),
        "diamond": _polygon(
            (x, y), (0, -1.3 * r), (1.3 * r, 1.3 * r), (-1.3 * r, 1.3 * r), (-1.3 * r, -1.3 * r)
        ),
    }[point.shape]
    return f'<g data-row="{point.row}"><title>{escape(point.title)}</title>{drawn}</g>'


def _polygon(centre: tuple[float, float], first: tuple[float, float], *steps: tuple[float, float]) -> str:
    path = "".join(f"l{across:.1f} {down:.1f}" for across, down in steps)
    return f'<path d="M{centre[0] + first[0]:.1f} {centre[1] + first[1]:.1f}{path}z"/>'


def _ticks(low: float, high: float) -> list[float]:
    tens = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [10.0**ten for ten in tens]


def _text(words: str, x: float, y: float, kind: str, anchor: str, more: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text class="{kind}" {place} text-anchor="{anchor}"{more}>{escape(words)}</text>'


def _words(gflops: float, seconds: float, intensity: float) -> str:
    return f"{1000 * seconds:.3g} ms, {gflops:.3g} GFLOP/s, {intensity:.3g} operations per byte"
