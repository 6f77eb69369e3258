"""The README is run: its commands print what it says, its Python does what it says."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
CONSOLE = [text for _, text in BLOCKS if text.startswith("$ ")]
PYTHON = [text for language, text in BLOCKS if language == "python" and ">>>" not in text]


def squeezed(text: str) -> list[str]:
    """The lines, without the space around them that a terminal's width decides."""
    return [line.strip() for line in text.strip().splitlines() if line.strip()]


@pytest.mark.parametrize("text", CONSOLE)
def test_commands_print_what_the_readme_says(text: str) -> None:
    command, _, wanted = text.removeprefix("$ ").partition("\n")
    arguments = shlex.split(command)
    assert arguments[0] == "ninefold"
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert squeezed(done.stdout) == squeezed(wanted)


def test_interactive_python_gives_what_the_readme_says() -> None:
    sessions = "\n".join(text for _, text in BLOCKS if ">>>" in text)
    parsed = doctest.DocTestParser().get_doctest(sessions, {}, "README.md", "README.md", 0)
    results = doctest.DocTestRunner(verbose=False).run(parsed)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("text", PYTHON, ids=["for_inference", "for_training", "convert", "operators"])
def test_python_runs(
    text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if "digits" in text:
        pytest.importorskip("digit_recognizer", reason="digit-recognizer-py is not installed")
    if "timm" in text:
        pytest.importorskip("timm", reason="timm is not installed")
    names = {
        "x": torch.randn(1, 64, 9, 9),
        "depthwise_weight": torch.randn(64, 1, 3, 3),
        "pointwise_weight": torch.randn(128, 64, 1, 1),
    }
    exec(text, names)
    if "for_inference" in text:
        assert "fused" in capsys.readouterr().out
    elif "for_training" in text:
        assert "52 of 52 convolutions train in 16 fused chains" in capsys.readouterr().out
    elif "convert" in text:
        assert "1 term, depthwise first: 0.1267 of the multiplications" in capsys.readouterr().out
        assert names["model"](names["images"][:2]).shape == (2, 10)
    else:
        assert names["y"].shape == (1, 128, 9, 9)
        assert names["layer"](names["x"]).shape == (1, 128, 5, 5)


def test_every_make_target_the_docs_name_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        named = set(re.findall(r"(?:^|`)make ([a-z]+)\b", text, re.MULTILINE))
        assert named <= targets, page


def test_the_tree_in_the_architecture_is_the_tree() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    tree = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[0]
    named = re.findall(r"[\w/]+\.py|[\w/]+/(?=\s)", tree)
    assert len(named) > 20
    for name in named:
        found = [*ROOT.glob(f"{name}"), *ROOT.glob(f"kernels/{name}"), *ROOT.glob(f"src/ninefold/{name}")]
        found += [*ROOT.glob(f"src/ninefold/*/{name}"), *ROOT.glob(f"benchmarks/{name}")]
        assert found, f"{name} is in ARCHITECTURE.md but not in the tree"
