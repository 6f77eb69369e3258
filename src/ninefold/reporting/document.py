"""A report as one HTML file that holds all it shows: sorted and filtered by its own script, no network."""

from __future__ import annotations

import json
from importlib.resources import files

from markupsafe import Markup

from . import tables, words
from .facts import KINDS, Report, size
from .page import environment
from .roofline import roofline

_FIRST = 10  # swaps that stand outside the fold


def render(report: Report) -> str:
    """The page about one network."""
    made = environment()
    made.filters.update(shape=size, ms3=words.ms, amount=words.short, factor=words.times)
    script = files(__package__).joinpath("script", "report.js").read_text(encoding="utf-8")
    stem = "".join(each if each.isalnum() else "-" for each in report.network).strip("-")
    return made.get_template("report.html.j2").render(
        it=report,
        words=words,
        lines=words.lines(report),
        plots=[
            roofline(report, width=1000, height=520, name="wide"),
            roofline(report, width=360, height=420, name="narrow"),
        ],
        kinds=[kind for kind in KINDS if any(row.kind == kind for row in report.rows)],
        longest=max(
            (sum(each.seconds for each in some) for some in (report.shares, report.steps)), default=0
        ),
        first=_FIRST,
        stem=stem or "report",
        script=Markup(script),
        files=Markup(_inside({"csv": tables.as_csv(report), "json": tables.as_json(report)})),
    )


def _inside(values: dict[str, str]) -> str:
    # Inside a script element nothing but its end tag is markup.
    return json.dumps(values, ensure_ascii=False).replace("<", "\\u003c")
