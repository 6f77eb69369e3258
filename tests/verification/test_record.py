"""The page of counts is made of what the commands wrote, and of nothing else."""

from __future__ import annotations

import pytest


@pytest.fixture
def results(tmp_path, monkeypatch):
    import record

    monkeypatch.setattr(record, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(record, "PAGE", tmp_path / "counts.md")
    return record


def test_the_page_says_what_the_results_say() -> None:
    import record

    assert record.PAGE.read_text(encoding="utf-8") == record.page(record.load())


def test_rows_take_the_place_of_those_of_their_name(results) -> None:
    row = {"counted": {"calls": 1234, "seconds": 10}, "failed": 0}  # in this order
    results.keep(
        "commands",
        {"make soak": {**row, "failed": 7}, "make fuzz": {"counted": {"z": 1, "a": 2}, "failed": 0}},
    )
    results.keep("commands", {"make soak": row})
    said = results.PAGE.read_text(encoding="utf-8")
    assert said.count("| `make soak` | 1,234 calls, 10 seconds | 0 |") == 1
    assert said == results.page(results.load())
    assert said.count("make fuzz") == 1
    assert set(results.load()["commands"]) == {"make soak", "make fuzz"}


def test_cases_are_added_up(results) -> None:
    row = {"exact": 5, "mistrusted": 2, "runs": 240, "seconds": 3, "failed": 0, "seed": 0}
    results.keep(
        "verify", {"conv2d forward": {"held": 20_000, **row}, "chain input-gradient": {"held": 7, **row}}
    )
    said = results.PAGE.read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("| conv2d | forward | 20,000 | 5 | 2 | 240 | 0 | 0 | 20") for line in said)
    assert "| all | | 20,007 | 10 | 4 | 480 | 0 | | |" in said


def test_a_run_that_is_stopped_goes_on_where_it_was(results, tmp_path, monkeypatch) -> None:
    import verify

    monkeypatch.setattr(verify, "_PROGRESS", tmp_path / "progress")
    script = tmp_path / "holds.py"
    script.write_text(
        "import sys\n"
        "for line in sys.stdin:\n"
        "    cases = line.split()[3:]\n"
        "    with open(__file__ + '.seen', 'a') as seen: print(*cases, file=seen)\n"
        "    for case in cases: print('1 1 12 ')\n"
        "    sys.stdout.flush()\n"
    )
    monkeypatch.setattr(verify, "__file__", str(script))
    words = [
        "--operator",
        "pointwise",
        "--direction",
        "forward",
        "--jobs",
        "1",
        "--resume",
        "--write",
        "--cases",
    ]
    assert verify.main([*words, "3"]) == verify.main([*words, "5"]) == verify.main([*words, "0"]) == 0
    assert (tmp_path / "holds.py.seen").read_text() == "0 1 2\n3 4\n"
    assert results.load()["verify"]["pointwise forward"]["held"] == 5
