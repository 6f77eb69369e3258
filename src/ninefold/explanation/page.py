"""The page about one layer: one HTML file that holds all it shows, and the pictures as files of their own."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from . import pixels, style, text
from .curve import curve
from .drawing import Scene, pictures
from .layer import LARGEST, Layer
from .steps import rows

# In this order: each uses what stands above it.
_SCRIPTS = ("text", "values", "marks", "drawing", "curve", "steps", "pixels", "page")
_SYMBOLS = {
    "M": "in_channels",
    "N": "out_channels",
    "Dk": "kernel_size",
    "Dg": "output_size",
    "s": "stride",
    "m": "multiplier",
}
_TABLE = {
    "one_position": "1 × 1 × 1",
    "one_kernel": "{Dg} × {Dg} × 1",
    "standard": "{Dg} × {Dg} × {N}",
    "depthwise": "{Dg} × {Dg} × {MM}",
    "pointwise": "{Dg} × {Dg} × {N}",
    "separable": "{Dg} × {Dg} × {N}",
}
# Where people met a separable convolution that was not as fast as its count.
_ISSUES = [
    *(("pytorch/pytorch", number) for number in (13716, 18631, 31239)),
    ("tensorflow/tensorflow", 12132),
]


def render(layer: Layer, language: str) -> str:
    """The page, in one language. Raises ValueError for a language that is not there."""
    words = text.catalogue(language)
    scene = Scene(layer, language)
    intensity = {
        name: float(scene.values[f"{name}_intensity"].replace(",", ""))
        for name in ("standard", "depthwise", "pointwise")
    }
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            language=language,
            html_language={"zh": "zh-Hans"}.get(language, language),
            words=words,
            layer=_plain(layer),
            largest=_largest(),
            shares=scene.shares,
            style=Markup(style.variables() + style.read("page.css") + style.read("picture.css")),
            script=Markup(_script()),
            data=Markup(_data(layer, words)),
            pictures=[(each, Markup(svg)) for each, svg in zip(pictures(), _drawn(scene), strict=True)],
            curve=Markup(curve(scene)),
            steps=[(Markup(says), *counts) for says, *counts in rows(scene)],
            table=list(_TABLE.items()),
            intensities={name: value / max(intensity.values()) for name, value in intensity.items()},
            pixels=pixels.first_numbers(),
            filtered=pixels.filtered(),
            combined=pixels.combined(),
            issues=_ISSUES,
            try_counts=pixels.counts(),
            fill=lambda template: Markup(text.as_html(scene.fill(template))),
            plain=lambda template: text.as_words(scene.fill(template)),
            html=lambda phrase: Markup(text.as_html(phrase)),
            spoken=text.as_words,
            filled=lambda phrase, **more: text.fill(phrase, words, {k: str(v) for k, v in more.items()}),
            percent=lambda value: f"{100 * value:.4g}%",
        )
    )


def svg_files(layer: Layer, language: str) -> dict[str, str]:
    """File name -> one of the eight pictures, with its own style sheet and ground, light and dark."""
    drawn = _drawn(Scene(layer, language))
    return {
        f"{number}-{picture['name']}.svg": _alone(svg, picture["height"])
        for number, (picture, svg) in enumerate(zip(pictures(), drawn, strict=True), start=1)
    }


def _drawn(scene: Scene) -> list[str]:
    return [scene.draw(picture, number) for number, picture in enumerate(pictures(), start=1)]


def _alone(svg: str, height: int) -> str:
    # A width and height, for what shows a picture at its own size; in the page its column decides.
    svg = svg.replace(' viewBox="', f' width="420" height="{height}" viewBox="', 1)
    ground = '<rect class="ground" width="100%" height="100%" rx="10"/>'
    return svg.replace("</desc>", f"</desc><style>\n{style.alone()}\n</style>{ground}", 1) + "\n"


def _data(layer: Layer, words: Any) -> str:
    data = {
        "layer": _plain(layer),
        "largest": _largest(),
        "pixels": pixels.first_numbers(),
        "words": dict(words),
        "pictures": pictures(),
    }
    # Inside a script element nothing but its end tag is markup.
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _plain(layer: Layer) -> dict[str, int | str]:
    return {symbol: getattr(layer, name) for symbol, name in _SYMBOLS.items()} | {"p": layer.padding}


def _largest() -> dict[str, int]:
    return {symbol: LARGEST[name] for symbol, name in _SYMBOLS.items()}


@cache
def _script() -> str:
    folder = files(__package__).joinpath("script")
    parts = [folder.joinpath(f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS]
    return "(() => {\n" + "\n".join(parts) + "})();"


@cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(style.read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
