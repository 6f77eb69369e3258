"""The ratio over the number of output channels, for kernels of 3, 5, 7 and the layer's own.

Both axes are logarithmic. `script/curve.js` draws the same in the page.
"""

from __future__ import annotations

import math
from html import escape

from . import text
from .drawing import WIDTH, Scene
from .marks import label, px

_HEIGHT = 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 352, 34, 272
_KERNELS = (3, 5, 7)
_EXAMPLE = (1024, 3)
_Y_TICKS = (
    *((str(whole), float(whole)) for whole in (16, 8, 4, 2, 1)),
    *((f"1/{part}", 1 / part) for part in (2, 5, 10, 20, 50, 100, 200, 500, 1000)),
)
_NEAR = 16  # closer than that, labels would touch


def curve(scene: Scene) -> str:
    """The curves as an <svg> element, this layer marked."""
    channels, kernel, wide = (scene.numbers[name] for name in ("N", "Dk", "m"))
    last = max(2048, channels)
    high, low = 2.0 * wide, min(1 / 60, 0.7 * wide / kernel**2)

    def x(count: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * math.log2(count) / math.log2(last)

    def y(ratio: float) -> float:
        return _TOP + (_BOTTOM - _TOP) * math.log2(high / ratio) / math.log2(high / low)

    def ratio(count: float, side: int) -> float:
        return wide * (1 / count + 1 / side**2)

    even, tenth = y(1), y(0.1)
    parts = [
        f'<rect class="track" x="{_LEFT}" y="{_TOP}" width="{_RIGHT - _LEFT}" height="{px(even - _TOP)}"/>',
        label(scene.fill("@curve_y"), 12, 18, "soft", "start"),
        label(scene.fill("@curve_x"), (_LEFT + _RIGHT) / 2, _HEIGHT - 10, "soft", "middle"),
        f'<path class="tenth" d="M{_LEFT} {px(tenth)}H{_RIGHT}"/>',
        label(scene.fill("@curve_tenth"), _LEFT + 6, tenth + 14, "soft halo", "start"),
    ]
    for name, value in _Y_TICKS:
        if low <= value <= high:
            parts.append(f'<path class="tick" d="M{_LEFT - 4} {px(y(value))}H{_RIGHT}"/>')
            parts.append(label(name, _LEFT - 8, y(value) + 4, "soft", "end"))
    tick = 1
    while tick <= last:
        parts.append(f'<path class="tick" d="M{px(x(tick))} {_BOTTOM}v4"/>')
        parts.append(label(str(tick), x(tick), _BOTTOM + 17, "soft", "middle"))
        tick *= 4
    own = y(ratio(last, kernel))
    for side in _KERNELS if kernel in _KERNELS else (*_KERNELS, kernel):
        steps = 48
        points = [last ** (step / steps) for step in range(steps + 1)]
        line = "L".join(f"{px(x(count))} {px(y(ratio(count, side)))}" for count in points)
        parts.append(f'<path class="curve{" own" if side == kernel else ""}" d="M{line}"/>')
        end = y(ratio(last, side))
        if side == kernel or abs(end - own) >= _NEAR:
            named = text.fill(scene.words["curve_kernel"], {}, {"side": str(side)})
            parts.append(label(named, _RIGHT + 7, end + 4, "name own" if side == kernel else "soft", "start"))
    left, top = x(_EXAMPLE[0]), y(ratio(*_EXAMPLE))
    parts.append(f'<circle class="example" cx="{px(left)}" cy="{px(top)}" r="7"/>')
    left, top = x(channels), y(ratio(channels, kernel))
    parts.append(f'<circle class="here" cx="{px(left)}" cy="{px(top)}" r="4.5"/>')
    parts.append(label(scene.fill("{ratio}"), *_beside(left, top), "name halo", "middle"))
    title, description = (
        escape(text.as_words(scene.fill(phrase))) for phrase in ("@curve_title", "@curve_alt")
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="picture" viewBox="0 0 {WIDTH} {_HEIGHT}" role="img" '
        f'aria-labelledby="curve-title curve-description"><title id="curve-title">{title}</title>'
        f'<desc id="curve-description">{description}</desc>{"".join(parts)}</svg>'
    )


def _beside(left: float, top: float) -> tuple[float, float]:
    # Upper right of the curve where it is steep, else above, or below where that is outside.
    if left < (_LEFT + _RIGHT) / 2:
        return left + 32, max(top - 8, _TOP + 14.0)
    return min(left, _RIGHT - 26), top + (24 if top < _TOP + 16 else -14)
