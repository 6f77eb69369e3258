"""Colours and the pictures' style sheet: variables in the page, plain colours in a picture by itself."""

from __future__ import annotations

import re
from importlib.resources import files

# As the report's: `plain` is the standard way, `fast` the depthwise stage; the pointwise stage has its own.
LIGHT = {
    "paper": "#faf9f6",
    "card": "#ffffff",
    "ink": "#1b2024",
    "soft": "#5c666e",
    "line": "#e4e1d9",
    "fast": "#0b7a6f",
    "plain": "#b9762f",
    "mix": "#6a55b8",
    "ghost": "#d9d4c7",
    "track": "#f0ede6",
    "warn": "#b3261e",
}
DARK = {
    "paper": "#14181b",
    "card": "#1c2226",
    "ink": "#e9ecee",
    "soft": "#9aa5ad",
    "line": "#2c343a",
    "fast": "#3cc4b2",
    "plain": "#d99a55",
    "mix": "#a898f0",
    "ghost": "#3d474e",
    "track": "#262e33",
    "warn": "#ff8a7a",
}


def read(name: str) -> str:
    """A file of the templates folder."""
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def variables() -> str:
    """The colours as custom properties, light and dark."""
    light, dark = (
        "".join(f" --{name}: {colour};" for name, colour in colours.items()) for colours in (LIGHT, DARK)
    )
    return f":root {{{light} }}\n@media (prefers-color-scheme: dark) {{ :root {{{dark} }} }}\n"


def alone() -> str:
    """The pictures' rules without variables, which many programs that show SVG do not know."""
    rules = read("picture.css").strip()
    dark = "\n".join(line for line in rules.splitlines() if "var(" in line)
    return f"{_filled(rules, LIGHT)}\n@media (prefers-color-scheme: dark) {{\n{_filled(dark, DARK)}\n}}"


def _filled(rules: str, colours: dict[str, str]) -> str:
    return re.sub(r"var\(--(\w+)\)", lambda found: colours[found[1]], rules)
