"""What the pages show is run: commands print what they say, Python does what it says."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def python(page: Path) -> list[str]:
    return [text for language, text in blocks(page) if language == "python" and ">>>" not in text]


def sessions(page: Path) -> list[str]:
    return [text for language, text in blocks(page) if ">>>" in text]


@pytest.mark.parametrize("page", [page for page in PAGES if python(page)], ids=named)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for text in python(page):
        exec(compile(text, named(page), "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if sessions(page)], ids=named)
def test_a_session_gives_what_the_page_says(page: Path) -> None:
    parsed = doctest.DocTestParser().get_doctest("\n".join(sessions(page)), {}, page.name, page.name, 0)
    results = doctest.DocTestRunner(verbose=False).run(parsed)
    assert results.attempted > 0 and results.failed == 0


CONSOLE = [(page, text) for page in PAGES for _, text in blocks(page) if text.startswith("$ ")]


@pytest.mark.parametrize(
    ("page", "text"), CONSOLE, ids=lambda each: named(each) if isinstance(each, Path) else ""
)
def test_a_command_prints_what_the_page_says(page: Path, text: str) -> None:
    command, _, wanted = text.removeprefix("$ ").partition("\n")
    arguments = shlex.split(command)
    assert arguments[0] == "ninefold"
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=True)
    assert [line.strip() for line in done.stdout.split("\n") if line.strip()] == [
        line.strip() for line in wanted.split("\n") if line.strip()
    ]


def test_every_option_in_a_shown_command_is_there() -> None:
    from ninefold.cli import COMMANDS

    shown = [
        shlex.split(line, comments=True)
        for page in PAGES
        for language, text in blocks(page)
        if language in ("sh", "")
        for line in text.splitlines()
        if line.removeprefix("$ ").startswith("ninefold ")
    ]
    shown = [[word for word in words if word != "$"] for words in shown]
    assert len(shown) >= 3
    for _, name, *arguments in shown:
        assert name in COMMANDS
        run = [sys.executable, "-m", "ninefold", name, "--help"]
        told = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        assert all(word in told for word in arguments if word.startswith("-")), (name, arguments)
