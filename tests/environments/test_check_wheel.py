"""What may travel in a wheel."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from zipfile import ZipFile

import pytest

FOLDER = Path(__file__).parents[2] / "environments"
GOOD = {
    "ninefold/__init__.py": 10,
    "ninefold/py.typed": 0,
    "ninefold/reporting/templates/demo.html.j2": 10,
    "ninefold/reporting/script/report.js": 10,
    "ninefold/_kernels.abi3.so": 1000,
    "ninefold-0.1.0.dist-info/METADATA": 10,
}


def complaints(folder: Path, files: dict[str, int]) -> str:
    spec = importlib.util.spec_from_file_location("check_wheel", FOLDER / "check_wheel.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    wheel = folder / "a.whl"
    with ZipFile(wheel, "w") as archive:
        for name, size in files.items():
            archive.writestr(name, b"\0" * size)
    return "\n".join(module.complaints(wheel))


def test_the_package_and_one_extension_may(tmp_path: Path) -> None:
    assert complaints(tmp_path, GOOD) == ""


@pytest.mark.parametrize(
    ("file", "size", "words"),
    [
        ("ninefold.libs/libgomp-a34b3233.so.1", 10, "must not travel in a wheel"),
        ("ninefold/libHalide.so", 10, "must not travel in a wheel"),
        ("ninefold_torchvision_operators.py", 10, "must not travel in a wheel"),
        ("ninefold_torchvision_operators.pth", 10, "outside the package"),
        ("ninefold/_second.so", 10, "one extension expected"),
        ("ninefold/_kernels.abi3.so", 8_000_001, "8,000,001 bytes"),
    ],
)
def test_nothing_else_may(file: str, size: int, words: str, tmp_path: Path) -> None:
    assert words in complaints(tmp_path, {**GOOD, file: size})


@pytest.mark.parametrize("file", ["ninefold/py.typed", "ninefold/reporting/script/report.js"])
def test_what_the_package_needs_is_missed(file: str, tmp_path: Path) -> None:
    assert f"{file}: missing" in complaints(tmp_path, {name: GOOD[name] for name in GOOD if name != file})
