"""Drawings as SVG, without text, so that a page scales them to any width; the page's CSS has the colours."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape


def bar(share: float, *, kind: str, label: str, mark: float | None = None) -> Markup:
    """A horizontal bar filled to `share` (0 to 1), coloured by the CSS class `kind`; `mark` is a thin line.

    Raises ValueError for a share or a mark outside 0 to 1.
    """
    for name, value in (("share", share), ("mark", mark)):
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"`{name}` must be from 0 to 1, got {value}")
    # What is not zero stays visible.
    width = max(share, 0.004) if share else 0
    line = f'<rect class="mark" x="{mark:.2%}" width="2" height="100%"/>' if mark is not None else ""
    return Markup(
        f'<svg class="bar" role="img" aria-label="{escape(label)}"><title>{escape(label)}</title>'
        f'<rect class="track" width="100%" height="100%" rx="3"/>'
        f'<rect class="{escape(kind)}" width="{width:.2%}" height="100%" rx="3"/>{line}</svg>'
    )


def skyline(costs: Sequence[tuple[str, int, int]], *, label: str) -> Markup:
    """The network from input to output: per layer a pale tower, its standard cost, and a solid one, as built.

    `costs` are (name, as built, standard); heights are in proportion.
    Raises ValueError for no layers.
    """
    if not costs:
        raise ValueError("`costs` must have a layer to draw, got none")
    tallest = max(max(built, standard) for _, built, standard in costs)
    towers = []
    for position, (name, built, standard) in enumerate(costs):
        title = f"{name}: {built:,} multiplications"
        if standard != built:
            title += f", standard {standard:,}"
        left = f'x="{10 * position + 1}" width="8"'
        rectangles = [
            f'<rect class="{kind}" {left} y="{100 - high:.1f}" height="{high:.1f}"/>'
            for kind, high in (("ghost", _height(standard, tallest)), ("tower", _height(built, tallest)))
        ]
        towers.append(f"<g><title>{escape(title)}</title>{''.join(rectangles)}</g>")
    return Markup(
        f'<svg class="skyline" viewBox="0 0 {10 * len(costs)} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{"".join(towers)}</svg>'
    )


def _height(value: int, tallest: int) -> float:
    # What is there stays visible.
    return max(0.8, 100 * value / max(tallest, 1))
