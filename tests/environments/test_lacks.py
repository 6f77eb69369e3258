"""What a machine lacks skips a test on a machine, and fails it where nothing may be skipped."""

from __future__ import annotations

import pytest


def test_what_is_lacking_is_a_skip_or_a_failure(lacks, monkeypatch):
    monkeypatch.setenv("NINEFOLD_FAIL_ON_SKIP", "")
    with pytest.raises(pytest.skip.Exception, match="this machine has no browser"):
        lacks("browser")
    monkeypatch.setenv("NINEFOLD_FAIL_ON_SKIP", "1")
    with pytest.raises(pytest.fail.Exception, match=r"this machine has no browser, which \.ci/run"):
        lacks("browser")
