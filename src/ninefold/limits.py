"""What a file may ask for: memory for the numbers that it holds. Looked at before any is taken."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch

# What reading a damaged archive may raise.
DAMAGE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError)

_DEPTH = 64  # of containers inside one another


def load_tensors(path: Path) -> Any:
    """What `torch.save` wrote, read with `weights_only` onto the CPU.

    Raises ValueError for an archive that unpacks to more than it is, and for tensors that declare more
    numbers than the file holds, for which PyTorch may ask the system; what `torch.load` raises for the rest.
    """
    if zipfile.is_zipfile(path):
        check_archive(path)
    # Bounded for the format before PyTorch 1.6, which an archive may begin as too.
    with _Bounded(io.FileIO(path)) as file:
        # On "meta" there are sizes and no memory, and a storage grows to what its tensors declare.
        declared = torch.load(file, map_location="meta", weights_only=True)
        storages = {storage._cdata: storage.nbytes() for storage in _storages(declared, _DEPTH)}
        needed, there = sum(storages.values()), path.stat().st_size
        if needed > there:
            raise ValueError(f"its tensors need {needed:,} bytes, and it has {there:,}")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


class _Bounded(io.BufferedReader):
    """A file of which no more is asked for than there is: Python takes the memory before it reads."""

    def read(self, size: int | None = -1, /) -> bytes:
        there = os.fstat(self.fileno()).st_size - self.tell()
        return super().read(there if size is None or size < 0 else min(size, max(there, 0)))


def shown(text: Any) -> str:
    """What a file says, quoted and on one line, cut where it is long."""
    quoted = repr(text)
    return quoted if len(quoted) <= 100 else f"{quoted[:97]}..."


def check_archive(file: Path | IO[bytes]) -> None:
    """Raise ValueError for a zip archive whose members, unpacked, are larger than together in the file."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    unpacked, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if unpacked > packed:
        raise ValueError(f"it unpacks to {unpacked:,} bytes, and holds {packed:,}")


def _storages(found: Any, depth: int) -> Iterator[torch.UntypedStorage]:
    if isinstance(found, torch.Tensor):
        if found.layout is torch.strided:
            yield found.untyped_storage()
    elif depth and isinstance(found, Mapping | list | tuple):
        for each in found.values() if isinstance(found, Mapping) else found:
            yield from _storages(each, depth - 1)
