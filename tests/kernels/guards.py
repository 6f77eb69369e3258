"""Memory whose end is guarded, for the scripts that test_memory.py runs."""

import ctypes
import mmap

import numpy as np
import torch

PAGE = mmap.PAGESIZE
protect = ctypes.CDLL(None, use_errno=True).mprotect
kept = []


def guarded(*shape, nhwc=False, dtype=np.float32):
    # A tensor whose last number is the last before a page without permissions; filled with NaN.
    count, wide = int(np.prod(shape)), np.dtype(dtype).itemsize
    pages = -(-count * wide // PAGE)
    region = mmap.mmap(-1, (pages + 1) * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(region))
    kept.append(region)
    assert protect(ctypes.c_void_p(address + pages * PAGE), PAGE, 0) == 0
    flat = np.frombuffer(region, dtype, count, pages * PAGE - count * wide)
    flat[:] = np.nan
    if nhwc:
        n, c, h, w = shape
        return torch.from_numpy(flat.reshape(n, h, w, c)).permute(0, 3, 1, 2)
    return torch.from_numpy(flat.reshape(shape))


def numbers(tensor):
    return tensor.copy_(torch.randint(-3, 4, tensor.shape).float())


def forget():
    # Gives every region back.
    kept.clear()
