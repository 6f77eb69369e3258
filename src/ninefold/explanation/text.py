"""Words and symbols: a sentence of the catalogue filled with numbers, then as SVG or HTML.

In a catalogue and in pictures.json `{name}` is a value, `@name` a phrase of the catalogue, `D_k` a symbol
with its index, M, N and m alone are symbols, and what stands between two `~` cancels out. `script/text.js`
does the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files

LANGUAGES = ("en", "zh")

_PHRASE = re.compile(r"@([a-zA-Z0-9_]+)")
_VALUE = re.compile(r"\{(\w+)\}")
# ASCII, as in JavaScript: a Chinese character beside M leaves M a word of its own.
_SYMBOL = re.compile(r"(~|D_[kgf]|\bmM\b|\b[MNm]\b)", re.ASCII)
_SUNK = 3


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """Every phrase in one language. Raises ValueError for a language that is not there."""
    if language not in LANGUAGES:
        raise ValueError(f"`language` must be one of {', '.join(map(repr, LANGUAGES))}, got {language!r}")
    text = files(__package__).joinpath("words", f"{language}.json").read_text(encoding="utf-8")
    words: dict[str, str] = json.loads(text)
    return words


def fill(text: str, words: Mapping[str, str], values: Mapping[str, str]) -> str:
    """Put phrases, then values, into a text."""
    phrased = _PHRASE.sub(lambda found: words[found[1]], text)
    return _VALUE.sub(lambda found: values[found[1]], phrased)


def as_html(text: str) -> str:
    """Escape a filled text, with symbols in italics and their indices below."""
    parts = []
    for part in _SYMBOL.split(text):
        if part.startswith("D_"):
            parts.append(f"<i>D</i><sub>{part[2]}</sub>")
        elif part in ("M", "N", "m", "mM"):
            parts.append(f"<i>{part}</i>")
        else:
            parts.append(escape(part))
    return "".join(parts)


def as_svg(text: str) -> str:
    """The same as tspans; what follows an index is raised again."""
    parts = []
    cut = sunk = False
    for index, part in enumerate(_SYMBOL.split(text)):
        if part == "~":
            cut = not cut
        if part in ("~", ""):
            continue
        kind = " ".join(filter(None, ("var" if index % 2 else "", "cut" if cut else "")))
        attributes = (f' class="{kind}"' if kind else "") + (f' dy="-{_SUNK}"' if sunk else "")
        shown = escape("D" if part.startswith("D_") else part)
        parts.append(f"<tspan{attributes}>{shown}</tspan>" if attributes else shown)
        sunk = part.startswith("D_")
        if sunk:
            parts.append(f'<tspan class="sub{" cut" if cut else ""}" dy="{_SUNK}">{part[2]}</tspan>')
    return "".join(parts)


def as_words(text: str) -> str:
    """The same as plain text, for titles and screen readers."""
    return text.replace("D_", "D").replace("~", "")
