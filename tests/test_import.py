from __future__ import annotations

import json
import subprocess
import sys

import pytest

# What is not needed to count, and would cost most of a second to import.
HEAVY = ("torch", "numpy", "halide", "timm", "torchvision", "PIL")

REFUSE = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
"""


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def imported_by(code):
    result = python(f"{code}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))")
    assert result.returncode == 0, result.stderr
    return {name.split(".")[0] for name in json.loads(result.stdout)}, result.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import ninefold",
        "import ninefold.cost",
        "import ninefold; ninefold.cost.compare(512, 1024, 3, 14); ninefold.shape.pair('size', 3)",
        "import ninefold.cli",
        "import ninefold.cli.cost",
    ],
)
def test_counting_imports_nothing_heavy(code):
    packages, _ = imported_by(code)
    assert "ninefold" in packages
    assert packages.isdisjoint(HEAVY)


def test_importing_the_package_imports_none_of_its_rooms():
    _, modules = imported_by("import ninefold")
    assert [name for name in json.loads(modules) if name.startswith("ninefold.")] == []


def test_help_imports_no_subcommand():
    run = "from ninefold.cli import main; main(['--help'], standalone_mode=False)"
    result = python(f"{run}\nimport sys\nprint([name for name in sys.modules if 'ninefold.cli.' in name])")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


RUN = f"{REFUSE}\nfrom ninefold.cli import main\nmain()"
LAYER = ["--in", "512", "--out", "1024", "--kernel", "3", "--size", "14"]


def test_the_blockade_holds():
    result = python(f"{REFUSE}\nimport torch")
    assert result.returncode == 1 and "No module named 'torch'" in result.stderr


def test_cost_runs_where_torch_and_numpy_are_not_installed():
    result = python(RUN, "cost", *LAYER)
    assert result.returncode == 0, result.stderr
    assert "1033/9216 = 0.1121" in result.stdout
    result = python(RUN, "cost", *LAYER, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["rows"][2]["multiplications"] == 924_844_032


def test_the_module_runs_as_a_command():
    result = subprocess.run(
        [sys.executable, "-m", "ninefold", "cost", *LAYER],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "1033/9216 = 0.1121" in result.stdout


@pytest.mark.parametrize("name", ["ops", "nn", "for_inference"])
def test_what_needs_pytorch_says_so(name):
    result = python(f"{REFUSE}\nimport ninefold\nninefold.{name}")
    last = result.stderr.strip().splitlines()[-1]
    assert last == f"ModuleNotFoundError: `ninefold.{name}` needs PyTorch: pip install 'ninefold[torch]'"
