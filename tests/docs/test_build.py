"""The documentation builds without a warning, its links lead somewhere, and nothing public is missing."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest

import ninefold
from ninefold.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """Where a page's links lead, which places it has, and what it fetches."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.fetched: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.places.add(str(given["id"]))
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if tag in ("img", "script", "link") and (fetched := given.get("src") or given.get("href")):
            self.fetched.append(fetched)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as HTML; a warning is an error."""
    pytest.importorskip("furo", reason="the documentation's tools are not installed")
    out = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", out / "cache", "-b", "html"]
    done = subprocess.run(
        [*map(str, command), str(ROOT / "docs"), str(out / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return out / "html"


@pytest.fixture(scope="session")
def pages(built: Path) -> dict[Path, Page]:
    """Each page by its path."""
    return {path: Page(path) for path in built.rglob("*.html")}


def test_every_link_inside_leads_somewhere(pages: dict[Path, Page]) -> None:
    lost = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists() or (parts.fragment and parts.fragment not in pages[target].places):
                lost.append((path.name, link))
    assert lost == []


def test_no_page_fetches_anything_from_elsewhere(pages: dict[Path, Page]) -> None:
    assert [url for page in pages.values() for url in page.fetched if urlsplit(url).netloc] == []


def test_every_page_is_reached_from_the_first(pages: dict[Path, Page], built: Path) -> None:
    written = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    linked = {unquote(urlsplit(link).path) for link in pages[built / "index.html"].links}
    assert {str(path) for path in written} <= {*linked, "index.html"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(pages: dict[Path, Page], built: Path, name: str) -> None:
    places = pages[built / "reference/commands.html"].places
    assert f"ninefold-{name}" in places
    command = main.get_command(click.Context(main), name)
    assert command is not None
    for parameter in command.params:
        place = (
            parameter.opts[-1]
            if isinstance(parameter, click.Option)
            else f"arg-{str(parameter.name).upper()}"
        )
        assert f"cmdoption-ninefold-{name}-{place.lstrip('-')}" in places, parameter.opts


def public() -> Iterator[str]:
    modules = [name for name in ninefold.__all__ if inspect.ismodule(getattr(ninefold, name))]
    for name in ninefold.__all__:
        if name not in modules and name != "__version__":
            yield f"ninefold.{name}"
    for name in modules:
        module = import_module(f"ninefold.{name}")
        listed = getattr(module, "__all__", None) or [
            each
            for each, thing in vars(module).items()
            if not each.startswith("_") and getattr(thing, "__module__", "") == module.__name__
        ]
        yield from (f"ninefold.{name}.{each}" for each in listed)


# Of `shape`, what a user meets; the rest are the checks of the other rooms.
INSIDE = {
    f"ninefold.shape.{name}"
    for name in (
        "integer",
        "pair",
        "resolve_padding",
        "check_activation",
        "check_computable",
        "check_residual",
        "numel",
    )
}


def test_every_public_name_is_documented(pages: dict[Path, Page], built: Path) -> None:
    places = pages[built / "reference/python.html"].places
    # What stands at the top of the package too, is documented there.
    at_the_top = {f"ninefold.training.{name}" for name in ("for_training", "restore")}
    assert [name for name in public() if name not in places | INSIDE | at_the_top] == []
