"""Who may import whom. A room that is not in the table fails, so that adding one is a decision."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ninefold
from ninefold.cli import COMMANDS

ROOT = Path(ninefold.__file__).parent

# Room -> the other rooms it may import. `shape` is plain data and holds the messages: who checks, asks it.
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"cli"},
    "shape": set(),
    "cost": {"shape"},
    "reference": {"shape"},
    "gpu": set(),
    "ops": {"gpu", "shape", "_kernels"},
    "nn": {"training", "ops", "shape"},
    "inference": {"ops", "cost", "shape", "machine", "measure"},
    "training": {"inference", "ops", "cost", "shape"},
    "limits": set(),
    "trainer": {"training", "photos", "limits"},
    "conversion": {"census", "inference", "limits", "trainer", "measure", "shape"},
    "operators": {"cost", "shape"},
    "census": {"operators", "cost", "shape"},
    "machine": set(),
    "measure": {"machine", "_kernels"},
    "photos": set(),
    "models": {"photos", "limits"},
    "datasets": {"photos"},
    "reporting": {"cost", "shape"},
    "surroundings": {"machine", "measure", "reporting"},
    "survey": {
        *("census", "operators", "inference", "ops", "reporting", "measure", "surroundings", "cost", "shape"),
    },
    "explanation": {"cost", "shape"},
    "cli": {
        *("cost", "shape", "ops", "nn", "inference", "training", "conversion", "reporting"),
        *("explanation", "trainer"),
        *("census", "datasets", "machine", "measure", "models", "photos", "surroundings", "survey"),
        "_kernels",
    },
}

# Rooms that work without torch; the commands have a test of their own.
WITHOUT_TORCH = {"__init__", "__main__", "shape", "cost", "reporting", "explanation"}
FRAMEWORKS = {"torch", "numpy", "timm", "torchvision", "halide", "PIL"}


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(tree: ast.AST, package: str, *, lazy: bool = True) -> Iterator[str]:
    """Yield each module that a file imports, by its full name, wherever the import stands.

    Relative imports are resolved against `package`, and `import_module` with a plain string counts. Without
    `lazy`, what stands inside a function is left out.
    """
    for node in walk(tree, into_functions=lazy):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # The room may be among the names (`from ninefold import cost`) or before them.
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            function = (
                node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            )
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if function in ("import_module", "__import__") and isinstance(name, str):
                yield package + name if name.startswith(".") else name


def walk(tree: ast.AST, *, into_functions: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not into_functions and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield node
        yield from walk(node, into_functions=into_functions)


def read(path: Path, *, lazy: bool = True) -> list[str]:
    folder = path.relative_to(ROOT.parent).parent
    return list(imported(ast.parse(path.read_text(encoding="utf-8")), ".".join(folder.parts), lazy=lazy))


def rooms_among(modules: list[str]) -> set[str]:
    """Name the rooms; a bare `import ninefold` would reach all of them unseen, and is called "*"."""
    parts = [name.split(".") for name in modules if name.split(".")[0] == "ninefold"]
    return {part[1] if len(part) > 1 else "*" for part in parts} - {"__version__"}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_the_rooms_it_may(path):
    room = room_of(path)
    assert room in ALLOWED, f"{room} has no line in ALLOWED: say there what it may import"
    strangers = rooms_among(read(path)) - ALLOWED[room] - {room}
    assert not strangers, f"{room} may not import {sorted(strangers)}"


def test_nothing_imports_the_command_line():
    assert {room for room, allowed in ALLOWED.items() if "cli" in allowed} == {"__main__"}


def test_production_never_imports_the_reference():
    assert all("reference" not in allowed for allowed in ALLOWED.values())
    for path in sources():
        text = path.read_text(encoding="utf-8")
        assert room_of(path) == "reference" or "ninefold.reference" not in text, path


def test_the_table_has_no_circles():
    def below(room: str) -> set[str]:
        direct = ALLOWED.get(room, set())
        return direct.union(*(below(other) for other in direct))

    for room in ALLOWED:
        assert room not in below(room)


@pytest.mark.parametrize("room", ["shape", "cost"])
def test_counting_needs_the_standard_library_alone(room):
    packages = {name.split(".")[0] for name in read(ROOT / f"{room}.py")}
    assert packages - {"ninefold"} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "path",
    [p for p in sources() if room_of(p) in WITHOUT_TORCH],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_what_works_without_torch_imports_it_only_inside_functions(path):
    packages = {name.split(".")[0] for name in read(path, lazy=False)}
    assert packages.isdisjoint(FRAMEWORKS)


def test_the_report_knows_nothing_of_torch():
    for path in sources():
        if room_of(path) == "reporting":
            assert {name.split(".")[0] for name in read(path)}.isdisjoint(FRAMEWORKS), path


@pytest.mark.parametrize("command", ["__init__", *COMMANDS])
def test_a_command_imports_its_rooms_only_when_it_runs(command):
    # So `--help` is quick, and a command that needs no torch runs without it. A command's own helpers may
    # import what they like, if the command imports them inside a function.
    modules, waiting = set(), [ROOT / "cli" / f"{command}.py"]
    while waiting:
        found = set(read(waiting.pop(), lazy=False)) - modules
        modules |= found
        parts = [name.split(".") for name in found if name.startswith("ninefold.cli.")]
        waiting += [path for part in parts if (path := ROOT / "cli" / f"{part[2]}.py").exists()]
    assert rooms_among(list(modules)) <= {"cost", "shape", "cli"}
    assert {name.split(".")[0] for name in modules}.isdisjoint(FRAMEWORKS)


@pytest.mark.parametrize(
    ("source", "package", "rooms"),
    [
        ("import ninefold.cost as c", "ninefold", {"cost"}),
        ("import ninefold", "ninefold", {"*"}),
        ("from ninefold import __version__, ops", "ninefold", {"ops"}),
        ("from ninefold.ops.cpu import run", "ninefold.nn", {"ops"}),
        ("from . import cli", "ninefold", {"cli"}),
        ("from .cli import main", "ninefold", {"cli"}),
        ("from .. import reference", "ninefold.ops", {"reference"}),
        ("from ..reporting.page import write", "ninefold.cli", {"reporting"}),
        ("def f():\n    from ninefold import reference", "ninefold", {"reference"}),
        ("if TYPE_CHECKING:\n    import ninefold.nn", "ninefold", {"nn"}),
        ("import_module('ninefold.cli')", "ninefold", {"cli"}),
        ("importlib.import_module('.cli', __package__)", "ninefold", {"cli"}),
        ("import torch, numpy.linalg", "ninefold", set()),
    ],
)
def test_the_reader_of_imports_sees(source, package, rooms):
    assert rooms_among(list(imported(ast.parse(source), package))) == rooms


def test_the_reader_of_imports_tells_lazy_from_eager():
    tree = ast.parse(
        "import a\ndef f():\n    import b\nclass C:\n    import c\n    def g(self):\n        import d"
    )
    assert list(imported(tree, "ninefold", lazy=False)) == ["a", "c"]
