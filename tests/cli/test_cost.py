from __future__ import annotations

import json
import re
import subprocess
import sys
from fractions import Fraction

import pytest
from click.testing import CliRunner

from ninefold import cost
from ninefold.cli import main

LAYER = ["--in", "512", "--out", "1024", "--kernel", "3", "--size", "14"]


def ninefold(*arguments):
    return CliRunner().invoke(main, arguments)


def test_the_table_shows_every_definition_and_the_ratio():
    result = ninefold("cost", *LAYER)
    assert result.exit_code == 0 and result.stderr == ""
    lines = [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()]
    for row in [
        ["standard, one kernel, one position", "1×1×1", "4,608", "4,608"],
        ["standard, one kernel", "14×14×1", "903,168", "4,608"],
        ["standard, 1024 kernels 3×3×512", "14×14×1024", "924,844,032", "4,718,592"],
        ["depthwise, 512 kernels 3×3×1", "14×14×512", "903,168", "4,608"],
        ["pointwise, 1024 kernels 1×1×512", "14×14×1024", "102,760,448", "524,288"],
        ["separable, depthwise + pointwise", "14×14×1024", "103,663,616", "528,896"],
        ["separable / standard", "1033/9216", "1033/9216"],
        ["separable / standard = 1/1024 + 1/9 = 1033/9216 = 0.1121"],
    ]:
        assert row in lines


def test_numbers_of_any_length_are_shown_whole():
    huge = 10**40
    result = ninefold("cost", "--in", str(huge), "--out", str(huge), "--kernel", "3", "--size", str(huge))
    assert result.exit_code == 0
    assert f"{9 * huge**4:,}" in result.stdout


def test_json_holds_the_table_exactly():
    result = ninefold(
        "cost", "--in", "16", "--out", "32", "--kernel", "3x5", "--size", "7×9", "--multiplier", "2", "--json"
    )
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    rows = cost.table(16, 32, (3, 5), (7, 9), multiplier=2)
    assert [data[key] for key in ("in_channels", "out_channels", "multiplier")] == [16, 32, 2]
    assert (data["kernel_size"], data["output_size"]) == ([3, 5], [7, 9])
    assert [row["name"] for row in data["rows"]] == [row.name for row in rows]
    for shown, row in zip(data["rows"][:-1], rows, strict=False):
        assert shown["output"] == list(row.output)
        assert (shown["multiplications"], shown["parameters"]) == (row.multiplications, row.parameters)
    ratio = data["rows"][-1]["multiplications"]
    assert Fraction(ratio["numerator"], ratio["denominator"]) == 2 * (Fraction(1, 32) + Fraction(1, 15))
    assert ratio["value"] == pytest.approx(2 / 32 + 2 / 15)


def test_a_depth_multiplier_shows_in_the_ratio():
    result = ninefold(
        "cost", "--in", "16", "--out", "32", "--kernel", "3", "--size", "7", "--multiplier", "2"
    )
    assert "separable / standard = 2 · (1/32 + 1/9) = 41/144 = 0.2847" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        (["--input-size", "28"], [26, 26]),
        (["--input-size", "28", "--padding", "1"], [28, 28]),
        (["--input-size", "28x15", "--stride", "2", "--padding", "same_upper"], [14, 8]),
        (["--input-size", "28", "--padding", "same"], [28, 28]),
        (["--input-size", "28", "--stride", "2x3"], [13, 9]),
    ],
)
def test_the_output_size_follows_from_the_input(arguments, size):
    result = ninefold("cost", "--in", "3", "--out", "4", "--kernel", "3", *arguments, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["output_size"] == size


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--in": "0"}, "Invalid value for '--in': 0 is not in the range x>=1"),
        ({"--in": "many"}, "Invalid value for '--in': 'many' is not a valid integer"),
        ({"--out": "-3"}, "Invalid value for '--out'"),
        ({"--out": "2.5"}, "Invalid value for '--out'"),
        ({"--kernel": "3y3"}, "'3y3' is not a size: write 14, or 14x28 for height x width"),
        ({"--kernel": "0"}, "'0' is not a size: it must be positive"),
        ({"--size": "3x0"}, "'3x0' is not a size: it must be positive"),
        ({"--size": ""}, "'' is not a size"),
        ({"--multiplier": "0"}, "Invalid value for '--multiplier'"),
        ({"--in": None}, "Missing option '--in'"),
        ({"--size": None}, "Give either '--size' or '--input-size'"),
        ({"--input-size": "28"}, "Give either '--size' or '--input-size'"),
        ({"--stride": "2"}, "'--stride' and '--padding' go with '--input-size'"),
        ({"--size": None, "--input-size": "2"}, "`kernel_size` must fit the padded input: 3×3"),
        (
            {"--size": None, "--input-size": "8", "--padding": "full"},
            "`padding` must be one of 'valid', 'same'",
        ),
        ({"--size": None, "--input-size": "8", "--padding": "-1"}, "`padding` must be non-negative, got -1"),
        (
            {"--size": None, "--input-size": "8", "--padding": "same", "--stride": "2"},
            "`padding='same'` is not",
        ),
        ({"--colour": "red"}, "No such option"),
    ],
)
@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_wrong_input_is_one_line_and_exit_status_2(changes, words, extra):
    options = {"--in": "3", "--out": "4", "--kernel": "3", "--size": "5", **changes}
    arguments = [part for name, value in options.items() if value is not None for part in (name, value)]
    result = ninefold("cost", *arguments, *extra)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert result.stderr.startswith("ninefold: error: ") and result.stderr.count("\n") == 1


def test_a_narrow_terminal_loses_no_digit(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    result = ninefold("cost", *LAYER)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
    assert "…" not in plain
    assert all(len(line) <= 40 for line in plain.splitlines() if "=" not in line)
    # One cell's pieces stand below one another: their digits, column by column, are the number.
    column = [line[20:28].strip() for line in plain.splitlines()]
    assert "924844032" in "".join(column).replace(",", "")


def test_a_terminal_without_unicode_gets_the_numbers():
    code = "from ninefold.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "cost", *LAYER],
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)},
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert b"924,844,032" in result.stdout and b"1033/9216 = 0.1121" in result.stdout


def test_a_reader_that_goes_away_gets_no_traceback():
    command = f'"{sys.executable}" -m ninefold cost {" ".join(LAYER)} | true'
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert result.stderr == ""
