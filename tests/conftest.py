"""Fixtures for many rooms: instruction sets of this machine, one thread and two, a browser for pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def _instruction_sets() -> list[str]:
    try:
        from ninefold.ops import cpu
    except ImportError:
        return []
    return list(cpu.instruction_sets()) if cpu.available() else []


@pytest.fixture(params=[*_instruction_sets(), "fallback"])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run the test on each instruction set, and on PyTorch's own operators ("fallback")."""
    from ninefold.ops import backend

    if request.param == "fallback":
        monkeypatch.setattr(backend, "kernels", lambda: None)
        yield request.param
        return
    from ninefold.ops import cpu

    with cpu.forced(request.param):
        yield request.param


@pytest.fixture(params=[1, 2], ids=["1thread", "2threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run the test with one thread and with two."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def doubles() -> Iterator[None]:
    """Run the test where new tensors are float64 unless they are told otherwise; what it is given is not."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """Run the test where new tensors have no memory unless they are told otherwise; what it is given has."""
    import torch

    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.fixture(scope="session")
def lacks() -> Callable[[str], NoReturn]:
    """Skip a test for what this machine lacks; where no skip is allowed, it should have been installed."""

    def say(what: str) -> NoReturn:
        if os.environ.get("NINEFOLD_FAIL_ON_SKIP") == "1":
            pytest.fail(f"this machine has no {what}, which .ci/run or the environment must install")
        pytest.skip(f"this machine has no {what}")

    return say


@pytest.fixture(scope="session")
def chromium(lacks: Callable[[str], NoReturn]) -> Iterator[Any]:
    """Debian's Chromium, driven by playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        lacks("Chromium")
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
    assert [url for url in asked if not url.startswith(("file:", "about:", "blob:file:"))] == []
