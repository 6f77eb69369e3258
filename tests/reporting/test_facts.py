from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest

from ninefold import cost
from ninefold.reporting import facts, tables, words

PAIR, WHOLE = cost.separable(8, 16, 3, 14), cost.standard(8, 16, 3, 14)


@pytest.mark.parametrize(
    ("multiplications", "size", "seconds", "bound"),
    [
        (50_000_000, 1000, 1e-3, "arithmetic"),
        (1, 660_000, 1e-5, "L2"),  # 66 GB/s
        (1, (1 << 20) + 1, ((1 << 20) + 1) / 17e9, "DRAM"),
    ],
)
def test_the_limit_is_the_slower_of_arithmetic_and_memory(machine, multiplications, size, seconds, bound):
    found = facts.limit(machine, multiplications, size)
    assert found.bound == bound and found.seconds == pytest.approx(seconds)


def test_sums_and_ratios(report):
    total = cost.standard(3, 8, 3, 14).multiplications + PAIR.multiplications + 10_000
    assert report.multiplications == total
    assert report.weights == 216 + PAIR.parameters + 64
    assert report.bytes == 64_000
    assert report.other_way == (
        total + WHOLE.multiplications - PAIR.multiplications,
        report.weights + WHOLE.parameters - PAIR.parameters,
    )
    assert report.share_of_peak(report.rows[0]) == pytest.approx(2 * 42_336 / 2e-5 / 100e9)
    assert report.share_of_peak(report.blocks[2]) is None
    assert [report.leads(row) for row in report.rows] == [True, True, False, True]
    assert report.rows[0].intensity == pytest.approx(2 * 42_336 / 9_000)
    assert report.rows[3].what == "3×3, stride 2"
    assert report.limit_seconds == pytest.approx(2 * total / 100e9)


def test_a_weight_used_twice_counts_once(report):
    twice = dataclasses.replace(report, rows=(*report.rows, report.rows[0]))
    assert twice.weights == report.weights
    assert twice.multiplications == report.multiplications + report.rows[0].multiplications


def test_factors(report):
    (saved,), (could,) = report.saved, report.could_save
    assert saved.ratio == cost.compare(8, 16, 3, 14).ratio
    assert (saved.measured_factor, saved.pytorch_factor) == (pytest.approx(4.5), pytest.approx(2))
    # Predicted is the form that is not built.
    assert saved.predicted_factor == pytest.approx(8e-5 / 2e-5)
    assert could.predicted_factor == pytest.approx(1e-5 / 1e-6)


def test_the_three_lines(report):
    text = " ".join(" ".join(line) for line in words.lines(report))
    for words_of in (
        "1 k parameters",
        "1×3×14×14",
        "1 separable pair",
        "0.4 ms in PyTorch, 0.1 ms in Ninefold",
        "4.1×",
    ):
        assert words_of in text, words_of
    standard = dataclasses.replace(report, saved=())
    assert (
        "fewer" in words.other_line(standard)[0]
        and "1 standard convolution made" in words.other_line(standard)[1]
    )
    neither = dataclasses.replace(report, saved=(), could_save=())
    assert words.other_line(neither)[0] == "Nothing to replace" and words.together(neither) == ""


def test_csv_has_a_line_for_each_layer(report):
    found = list(csv.DictReader(io.StringIO(tables.as_csv(report))))
    assert [each["name"] for each in found] == [row.name for row in report.rows]
    assert sum(int(each["multiplications"]) for each in found) == report.multiplications
    assert found[0]["input_shape"] == "1×8×14×14" and found[0]["bound"] == "arithmetic"
    # A block's time stands once.
    assert [each["ninefold_seconds"] for each in found] == ["1e-05", "3e-05", "", ""]
    assert found[2]["ninefold_layers"] == "a.dw + a.pw"


def test_json_has_everything(report):
    found = json.loads(tables.as_json(report))
    assert found["totals"]["multiplications"] == report.multiplications
    assert found["totals"]["other_way"]["is"] == "standard"
    assert found["saved"][0]["ratio"] == pytest.approx(float(report.saved[0].ratio))
    assert len(found["rows"]) == 4 and found["rows"][1]["ninefold_how"] == "fused"


def test_it_is_saved_by_its_ending(report, tmp_path):
    for ending, words_of in ((".html", "<!doctype html>"), (".csv", "position,name"), (".json", '"network"')):
        assert words_of in report.save(tmp_path / f"report{ending}").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"`output` must end in \.html, \.csv or \.json, got"):
        report.save(tmp_path / "report.pdf")
    with pytest.raises(ValueError, match="`output` must be in a folder that is there, got"):
        report.save(tmp_path / "no" / "report.html")


def test_the_brief_names_what_matters(report):
    text = " ".join(str(report).split())
    for told in (
        "a & b <net>",
        "Something else ran.",
        "a transposed convolution",
        "=up</script><b>",
        "in PyTorch 2×",
    ):
        assert told in text, told
    assert "to convert it: ninefold convert net" in text


def test_reasons_are_gathered(report):
    more = dataclasses.replace(report.blocks[2], names=("other",))
    norm = dataclasses.replace(report.blocks[0], how="PyTorch", why="a norm", multiplications=1)
    found = dataclasses.replace(report, blocks=(norm, *report.blocks, more)).reasons
    assert {why: [block.names for block in blocks] for why, blocks in found.items()} == {
        "a transposed convolution": [("=up</script><b>",), ("other",)],
        "a norm": [("stem",)],
    }
    assert list(found) == ["a transposed convolution", "a norm"]
