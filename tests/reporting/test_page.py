from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from ninefold.reporting import data, page

_VOID = {"meta", "img", "br", "link", "input", "rect"}


class Checked(HTMLParser):
    """Collects text, and fails on a tag that is closed out of order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, words: str) -> None:
        if "style" not in self.open:
            self.words.append(words)


def words(html: str) -> str:
    return re.sub(r"\s+", " ", "".join(Checked(html).words))


def test_the_figures_are_on_the_page(examination: data.Examination) -> None:
    text = words(page.render(examination))
    for figure in (
        "2.0× as fast, and it sees the same",
        "7.8× fewer multiplications",
        "385,187,552",
        "3,023,631,360",
        "7.0× fewer parameters",
        "4,608,992",
        "32,487,648",
        "30.2 ms",
        "10 ms",
        "the limit: 7.7 ms",
        "100 GFLOP/s",
        "Egyptian cat",
        "35 %",
        "<0.1 %",
        "66.0 GB/s",
        "1 fused, 1 packed, 1 PyTorch",
        "not a <convolution>",
        "100 % of the separable multiplications",
        "ninefold demo --threads 1",
    ):
        assert figure in text, figure


def test_names_are_escaped(examination: data.Examination) -> None:
    html = page.render(examination)
    assert "<tiger>" not in html and "<net>" not in html and "<convolution>" not in html
    assert "a & b <net>" in words(html)


def test_the_page_holds_everything_itself(examination: data.Examination) -> None:
    html = page.render(examination)
    assert not re.search(r"https?://|<script|<link|@import|url\(", html)
    assert len(html) < 30_000
    assert "prefers-color-scheme: dark" in html and 'name="viewport"' in html


def test_a_network_that_sees_something_else_is_not_praised(examination: data.Examination) -> None:
    swapped = dataclasses.replace(examination.ninefold, guesses=examination.ninefold.guesses[::-1])
    text = words(page.render(dataclasses.replace(examination, ninefold=swapped, speedup=0.8)))
    assert "0.8× as fast" in text and "sees the same" not in text
    assert "PyTorch: Egyptian cat 285" in text


def test_random_weights_are_admitted(examination: data.Examination) -> None:
    assert "random weights" not in page.render(examination)
    assert "random weights" in page.render(dataclasses.replace(examination, trained=False))


def test_without_kernels_and_beyond_the_limit_the_page_still_stands(examination: data.Examination) -> None:
    machine = dataclasses.replace(examination.machine, instruction_set=None, gflops=1.0)
    text = words(page.render(dataclasses.replace(examination, machine=machine)))
    assert "the kernels are not installed" in text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.0004, "<0.1 %"), (0.0512, "5.1 %"), (0.1, "10 %"), (0.994, "99 %"), (1.0, "100 %")],
)
def test_percent(share: float, text: str) -> None:
    assert page.percent(share) == text
