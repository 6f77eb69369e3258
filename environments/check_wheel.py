"""What a wheel may hold: the package and one small extension; no Halide, no OpenMP of its own, no hook."""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

_LARGEST_EXTENSION = 8_000_000  # bytes


def complaints(wheel: Path) -> list[str]:
    """Everything wrong with `wheel`, one line each."""
    found = []
    with ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    for name in sizes:
        if not name.startswith(("ninefold/", "ninefold-")):
            found.append(f"{name}: outside the package")
        if any(word in name.lower() for word in ("libhalide", "gomp", "libomp", "iomp", "torchvision")):
            found.append(f"{name}: must not travel in a wheel")
    extensions = {name: size for name, size in sizes.items() if name.endswith((".so", ".pyd"))}
    if len(extensions) != 1:
        found.append(f"one extension expected, found {sorted(extensions)}")
    found += [f"{name}: {size:,} bytes" for name, size in extensions.items() if size > _LARGEST_EXTENSION]
    needed = (
        "ninefold/reporting/templates/demo.html.j2",
        "ninefold/reporting/script/report.js",
        "ninefold/py.typed",
    )
    found += [f"{name}: missing" for name in needed if name not in sizes]
    return found


if __name__ == "__main__":
    wheels = [Path(argument) for argument in sys.argv[1:]]
    wrong = [line for wheel in wheels for line in complaints(wheel)]
    for line in wrong:
        print(line, file=sys.stderr)
    verdict = "not fit to ship" if wrong else "as it should be"
    for wheel in wheels:
        print(f"{wheel}: {wheel.stat().st_size:,} bytes, {verdict}")
    sys.exit(1 if wrong or not wheels else 0)
