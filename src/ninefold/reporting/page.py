"""One HTML file that holds all it shows: no network, no scripts, light and dark, from a phone's width up."""

from __future__ import annotations

from fractions import Fraction
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined

from . import drawings
from .data import FATES, Examination


def render(examination: Examination) -> str:
    """The page about one network on one photograph."""
    layers = examination.layers
    return (
        environment()
        .get_template("demo.html.j2")
        .render(
            it=examination,
            slowest=max(each.seconds for each in examination.contenders),
            skyline=drawings.skyline(
                [(layer.name, layer.multiplications, layer.standard_multiplications) for layer in layers],
                label="What each layer costs, as built and as a standard convolution",
            ),
            fates=[(fate, sum(layer.fate == fate for layer in layers)) for fate in FATES],
        )
    )


def environment() -> Environment:
    """Templates of this folder, and the words that they need for numbers."""
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=lambda number: f"{number:,}",
        percent=percent,
        ms=lambda seconds: f"{1000 * seconds:.3g}",
        size=_size,
        times=lambda ratio: f"{float(1 / ratio):.1f}",
        ratio=_ratio,
    )
    environment.globals["bar"] = drawings.bar
    return environment


def _template(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def percent(share: float) -> str:
    """A share as a percentage: 51 %, 2.3 %, <0.1 %."""
    if 0 < share < 0.001:
        return "<0.1 %"
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.1f} %"


def _size(size: int) -> str:
    return f"{size / 2**20:.3g} MiB"


def _ratio(ratio: Fraction) -> str:
    return f"{float(ratio):.4f}"
