"""A browser for the tests of the page, and layers that are easy, hard, wide and degenerate."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from ninefold.explanation import Layer

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]

LAYERS = {
    "example": Layer(512, 1024, 3, 14),
    "first": Layer(32, 64, 3, 112),
    "kernel-over-image": Layer(3, 16, 7, 5),
    "ones": Layer(1, 1, 1, 1),
    "multiplier": Layer(16, 32, 3, 28, multiplier=2),
    "stride": Layer(64, 128, 5, 56, stride=2, padding=2),
    "few": Layer(2, 3, 5, 8, padding="valid"),
    "wide": Layer(24, 8, 3, 28, multiplier=16),
    "largest": Layer(16384, 16384, 31, 1024, stride=16, multiplier=16),
}


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Debian's Chromium, driven by playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any, tmp_path: Any) -> Iterator[Any]:
    """A function that opens HTML or SVG in a tab; at the end none has complained or asked the network."""
    tabs, said, asked = [], [], []

    def open_(text: str, *, width: int = 1400, suffix: str = ".html", **options: Any) -> Any:
        path = tmp_path / f"{len(tabs)}{suffix}"
        path.write_text(text, encoding="utf-8")
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        tab = context.new_page()
        tabs.append(context)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(path.as_uri())
        return tab

    yield open_
    for context in tabs:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "about:"))] == []


@pytest.fixture
def layers() -> dict[str, Layer]:
    """Layers by what is hard about them."""
    return LAYERS
