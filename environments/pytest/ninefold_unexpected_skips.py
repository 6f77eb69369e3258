"""A pytest plugin: with NINEFOLD_FAIL_ON_SKIP=1, a skip fails the run unless the machine is the reason.

A skip whose reason begins with "this machine" (it has no AVX-512, no GPU) is expected; any other hides a test
that should have run, such as one whose dependency was not installed.
"""

from __future__ import annotations

import os

import pytest

_EXPECTED = "this machine"
_unexpected: list[str] = []


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.lower().startswith(_EXPECTED):
        _unexpected.append(f"{report.nodeid}: {reason}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what was skipped while running."""
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Keep what was skipped as a whole module."""
    _note(report)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run before its closing line is written."""
    if _unexpected and os.environ.get("NINEFOLD_FAIL_ON_SKIP") == "1" and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name them."""
    if _unexpected and os.environ.get("NINEFOLD_FAIL_ON_SKIP") == "1":
        terminalreporter.section("skipped without the machine being the reason")
        for line in _unexpected:
            terminalreporter.write_line(line)
