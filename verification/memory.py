"""Memory that ends at a page without permissions, and is full of NaN until it is written."""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_empty = torch.empty


def tensor(shape: tuple[int, ...], *, channels_last: bool = False) -> torch.Tensor:
    """Return a float32 tensor of NaN whose last number is the last before the guard page."""
    count = math.prod(shape)
    if count == 0:
        return _empty(shape)
    pages = -(-4 * count // mmap.PAGESIZE)
    region = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    guard = ctypes.addressof(ctypes.c_char.from_buffer(region)) + pages * mmap.PAGESIZE
    if _mprotect(ctypes.c_void_p(guard), mmap.PAGESIZE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    # The array holds the region, the tensor the array: unmapped with its last view.
    flat = np.frombuffer(region, np.float32, count, pages * mmap.PAGESIZE - 4 * count)
    flat.fill(np.nan)
    if channels_last and len(shape) == 4:
        n, c, h, w = shape
        return torch.from_numpy(flat.reshape(n, h, w, c)).permute(0, 3, 1, 2)
    return torch.from_numpy(flat.reshape(shape))


@contextmanager
def guarded() -> Iterator[None]:
    """Inside the block, every float32 tensor that Python code makes with `torch.empty` is guarded."""

    def empty(
        *size: Any, memory_format: torch.memory_format = torch.contiguous_format, **options: Any
    ) -> Any:
        shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
        plain = options.get("dtype", torch.float32) is torch.float32
        if not plain or str(options.get("device") or "cpu") != "cpu":
            return _empty(*size, memory_format=memory_format, **options)
        return tensor(shape, channels_last=memory_format is torch.channels_last)

    torch.empty = empty
    try:
        yield
    finally:
        torch.empty = _empty
