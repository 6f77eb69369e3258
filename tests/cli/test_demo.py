from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ninefold.cli import main

QUICK = ("--seconds", "0.1", "--threads", "1")


def demo(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["demo", *QUICK, *arguments])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What the demo says of both photographs."""
    folder = tmp_path_factory.mktemp("demo")
    said = {}
    for photo in ("chelsea", "coffee"):
        result = demo("--image", photo, "--json", "-o", str(folder / f"{photo}.html"))
        assert result.exit_code == 0, result.output
        said[photo] = json.loads(result.stdout)
        assert "timing, in turns" in result.stderr
    return said


@pytest.mark.parametrize(("photo", "label"), [("chelsea", 285), ("coffee", 967)])
def test_both_runs_see_the_same(found: dict[str, dict], photo: str, label: int) -> None:
    said = found[photo]
    seen = [[guess["index"] for guess in run["guesses"]] for run in (*said["plain"], said["ninefold"])]
    assert seen[0][0] == label and len(seen[0]) == 5
    assert seen[0] == seen[1] == seen[2]
    assert said["logit_difference"] < 1e-4


def test_what_is_counted_is_exact(found: dict[str, dict]) -> None:
    count = found["chelsea"]["count"]
    assert count == found["coffee"]["count"]
    assert (count["multiplications"], count["parameters"]) == (385_187_552, 4_608_992)
    assert (count["standard_multiplications"], count["standard_parameters"]) == (3_023_631_360, 32_487_648)
    layers = found["chelsea"]["layers"]
    assert sum(layer["multiplications"] for layer in layers) == count["multiplications"]
    assert sum(layer["standard_multiplications"] for layer in layers) == count["standard_multiplications"]


def test_separable_pairs_ran_fused(found: dict[str, dict]) -> None:
    said = found["chelsea"]
    assert 0.95 <= said["fused_share"] <= 1
    fates = {layer["fate"] for layer in said["layers"] if layer["what"].startswith("separable")}
    assert fates == {"fused"}


def test_the_page_is_written_and_named(found: dict[str, dict]) -> None:
    page = Path(found["coffee"]["report"])
    assert "espresso" in page.read_text() and "data:image/jpeg;base64" in page.read_text()
    assert page.stat().st_size < 250_000


def test_limits_and_versions_stand_beside_the_times(found: dict[str, dict]) -> None:
    machine = found["chelsea"]["machine"]
    assert machine["threads"] == 1 and machine["gflops"] > 0 and machine["bandwidths"]
    assert {"ninefold", "python", "torch"} <= {name for name, _ in machine["versions"]}


def test_the_terminal_shows_it_all(tmp_path: Path) -> None:
    result = demo("-o", str(tmp_path / "page.html"))
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    for words in ("Egyptian cat (285)", "385,187,552", "3,023,631,360", "GFLOP/s", "fused", "page.html"):
        assert words in said, words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--image", "absent.png"),
            "`image` must be a file (chelsea and coffee are built in), got 'absent.png'",
        ),
        (("--image", __file__), "`image` must be a picture that can be read"),
        (("-o", "no/such/folder/page.html"), "`output` must be in a folder that is there"),
        (("--threads", "0"), "0 is not in the range x>=1"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments: tuple[str, ...], words: str) -> None:
    result = demo(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert words in result.stderr and result.stderr.count("\n") == 1


def test_without_torch_it_says_what_to_install() -> None:
    hide = "import sys; sys.modules['torch'] = None; from ninefold.cli import main; main(['demo'])"
    result = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "pip install 'ninefold[torch]'" in result.stderr and result.stderr.count("\n") == 1
