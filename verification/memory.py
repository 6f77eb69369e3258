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
_empty, _empty_like = torch.empty, torch.empty_like
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


def tensor(
    shape: tuple[int, ...], *, channels_last: bool = False, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Return a tensor of NaN whose last number is the last before the guard page."""
    count, size = math.prod(shape), dtype.itemsize
    if count == 0:
        return _empty(shape, dtype=dtype)
    pages = -(-size * count // mmap.PAGESIZE)
    region = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    guard = ctypes.addressof(ctypes.c_char.from_buffer(region)) + pages * mmap.PAGESIZE
    if _mprotect(ctypes.c_void_p(guard), mmap.PAGESIZE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    # The array holds the region, the tensor the array: unmapped with its last view.
    flat = np.frombuffer(region, _NUMPY[dtype], count, pages * mmap.PAGESIZE - size * count)
    flat.fill(np.nan)
    if channels_last and len(shape) == 4:
        n, c, h, w = shape
        return torch.from_numpy(flat.reshape(n, h, w, c)).permute(0, 3, 1, 2)
    return torch.from_numpy(flat.reshape(shape))


@contextmanager
def guarded() -> Iterator[None]:
    """Inside the block, every tensor of floats that Python code makes with `torch.empty` is guarded."""

    def empty(
        *size: Any, memory_format: torch.memory_format = torch.contiguous_format, **options: Any
    ) -> Any:
        shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
        dtype = options.get("dtype", torch.float32)
        if dtype not in _NUMPY or str(options.get("device") or "cpu") != "cpu":
            return _empty(*size, memory_format=memory_format, **options)
        return tensor(shape, channels_last=memory_format is torch.channels_last, dtype=dtype)

    def empty_like(like: torch.Tensor, **options: Any) -> Any:
        last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last)
        if options or like.dtype not in _NUMPY or not (last or like.is_contiguous()):
            return _empty_like(like, **options)
        return tensor(tuple(like.shape), channels_last=last, dtype=like.dtype)

    torch.empty, torch.empty_like = empty, empty_like
    try:
        yield
    finally:
        torch.empty, torch.empty_like = _empty, _empty_like
