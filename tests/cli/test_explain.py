from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

import ninefold
from ninefold.cli import main

LAYER = ["--in", "512", "--out", "1024", "--kernel", "3", "--size", "14"]


def explain(*arguments):
    return CliRunner().invoke(main, ["explain", *map(str, arguments)])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_writes_the_page_that_the_function_makes(tmp_path, language):
    page = tmp_path / "page.html"
    result = explain(*LAYER, "--lang", language, "-o", page)
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout == f"page: {page}\n"
    assert page.read_text(encoding="utf-8") == ninefold.explain(512, 1024, 3, 14, language=language).page


def test_it_writes_the_eight_pictures_into_a_folder(tmp_path):
    folder = tmp_path / "pictures"
    result = explain(*LAYER, "--stride", 2, "--padding", 1, "--multiplier", 2, "-o", f"{folder}/")
    assert result.exit_code == 0 and result.stdout == f"pictures: {folder}\n"
    made = ninefold.explain(512, 1024, 3, 14, stride=2, padding=1, multiplier=2)
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == made.pictures


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--in", "0"], "0 is not in the range x>=1"),
        (["--out", "-1"], "-1 is not in the range x>=1"),
        (["--kernel", "three"], "'three' is not a valid integer"),
        (["--size", "14.5"], "'14.5' is not a valid integer"),
        (["--stride", "0"], "0 is not in the range x>=1"),
        (["--multiplier", "0"], "0 is not in the range x>=1"),
        (["--padding", "-1"], "`padding` must be non-negative, got -1"),
        (["--padding", "wide"], "`padding` must be a number of pixels, 'same' or 'valid', got 'wide'"),
        (["--padding", "99"], "`padding` must leave an input of at least one pixel"),
        (["--in", "99999"], "`in_channels` must be at most 16384 to be drawn, got 99999"),
        (["--lang", "fr"], "'fr' is not one of 'en', 'zh'"),
    ],
)
def test_a_bad_value_is_one_clear_line_and_nothing_is_written(tmp_path, changed, words):
    result = explain(*LAYER, *changed, "-o", tmp_path / "page.html")
    assert result.exit_code == 2 and result.stdout == ""
    assert words in result.stderr and result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr and list(tmp_path.iterdir()) == []


def test_an_output_folder_that_is_a_file_is_one_clear_line(tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for output in (taken, f"{taken}/", taken / "page.html"):
        result = explain(*LAYER, "-o", output)
        assert result.exit_code == 2 and result.stderr.count("\n") == 1
        assert "ninefold: error: `output` must be" in result.stderr and "taken" in result.stderr
    assert taken.read_text() == "mine"


def test_a_missing_number_is_asked_for():
    result = explain("--in", 512, "--out", 1024, "--kernel", 3)
    assert result.exit_code == 2 and "Missing option '--size'" in result.stderr


def test_it_needs_neither_torch_nor_numpy(tmp_path):
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "numpy", "PIL", "halide"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
import ninefold
from ninefold.cli import main
assert "<iframe" in ninefold.explain(512, 1024, 3, 14)._repr_html_()
main()
"""
    page = tmp_path / "page.html"
    result = subprocess.run(
        [sys.executable, "-c", code, "explain", *LAYER, "-o", str(page)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "103,663,616" in page.read_text(encoding="utf-8")


def test_json_has_the_counts_and_the_files(tmp_path):
    arguments = ["explain", *LAYER, "--json", "-o", str(tmp_path / "page.html")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["standard"]["multiplications"] == 924_844_032 and said["files"] == [
        str(tmp_path / "page.html")
    ]
    assert said["layer"]["in_channels"] == 512
