"""How the documentation is built: `make docs` writes it to build/docs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from ninefold import __version__

project = "Ninefold"
author = "Ninefold's authors"
copyright = "Ninefold's authors, Apache-2.0"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click", "sphinx_copybutton"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
smartquotes = False  # two hyphens are an option's
exclude_patterns: list[str] = []

html_theme = "furo"
html_title = "Ninefold"
html_show_sourcelink = False
# Nothing of a page comes from elsewhere: the theme's fonts are the system's.
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b7a6f", "color-brand-content": "#0b7a6f"},
    "dark_css_variables": {"color-brand-primary": "#3cc4b2", "color-brand-content": "#3cc4b2"},
}

# Docstrings say `name` for code, and are indented where they hold code.
default_role = "literal"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
# A prompt is not part of what one copies.
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True


def _code_as_blocks(
    app: object, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """A paragraph indented by four spaces is code, as in Markdown; reStructuredText wants it said."""
    made: list[str] = []
    for line in lines:
        indented = line.startswith("    ") and line.strip()
        if indented and made and not made[-1].strip() and not _inside(made):
            made += ["::", ""]
        made.append(line)
    lines[:] = made


def _inside(made: list[str]) -> bool:
    last = next((line for line in reversed(made) if line.strip()), "")
    return last.startswith("    ") or last.endswith("::")


def _examples(app: object, context: object, lines: list[str]) -> None:
    """The last paragraph of a command's help is its example: show it as code."""
    text = "\n".join(lines)
    found = re.search(r"(?m)^\s*(?:\|\s*)?Example: ", text)
    if found is None:
        return
    before, example = text[: found.start()], text[found.start() :]
    code = [re.sub(r"^\s*(?:\|\s*)?(?:Example: )?", "", line).rstrip() for line in example.splitlines()]
    lines[:] = [*before.splitlines(), "", "::", "", *(f"    {line}" for line in code if line.strip()), ""]


def setup(app: object) -> None:
    """Connect the two."""
    app.connect("autodoc-process-docstring", _code_as_blocks)  # type: ignore[attr-defined]
    app.connect("sphinx-click-process-description", _examples)  # type: ignore[attr-defined]
