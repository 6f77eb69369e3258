"""Run by test_memory.py: every operand ends at a page without permissions, every output starts as NaN."""

import ctypes
import itertools
import mmap
import sys

import numpy as np
import torch

from ninefold.ops import cpu

PAGE = mmap.PAGESIZE
protect = ctypes.CDLL(None, use_errno=True).mprotect
kept = []


def guarded(*shape, nhwc=False):
    # A tensor whose last float is the last before a page without permissions; filled with NaN.
    count = int(np.prod(shape))
    pages = -(-count * 4 // PAGE)
    region = mmap.mmap(-1, (pages + 1) * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(region))
    kept.append(region)
    assert protect(ctypes.c_void_p(address + pages * PAGE), PAGE, 0) == 0
    flat = np.frombuffer(region, np.float32, count, pages * PAGE - count * 4)
    flat[:] = np.nan
    if nhwc:
        n, c, h, w = shape
        return torch.from_numpy(flat.reshape(n, h, w, c)).permute(0, 3, 1, 2)
    return torch.from_numpy(flat.reshape(shape))


def numbers(tensor):
    return tensor.copy_(torch.randint(-3, 4, tensor.shape).float())


torch.manual_seed(0)
cpu._kernels.use(sys.argv[1])
torch.set_num_threads(2)
cpu._empty = lambda n, c, h, w: guarded(n, c, h, w, nhwc=True)
conv = torch.nn.functional.conv2d
cases = 0
CHANNELS = (1, 3, 7, 8, 15, 16, 17, 31, 33, 64, 65)
for case in itertools.product(CHANNELS, (1, 3, 5, 7), (1, 2), (7, 12)):
    channels, kernel, stride, size = case
    x = numbers(guarded(1, channels, size, size, nhwc=True))
    outputs = channels % 29 + 3
    padding = (kernel // 2,) * 4
    depthwise, bias = numbers(guarded(channels, 1, kernel, kernel)), numbers(guarded(channels))
    pointwise, offset = numbers(guarded(outputs, channels, 1, 1)), numbers(guarded(outputs))
    filtered = conv(x, depthwise, bias, stride, kernel // 2, 1, channels)
    window = ((stride, stride), padding, (1, 1))
    got = cpu.depthwise_conv2d(x, depthwise, bias, *window, None)
    assert torch.equal(got, filtered), ("depthwise", *case)
    wanted = conv(filtered, pointwise, offset)
    residual = numbers(guarded(*wanted.shape, nhwc=True))
    got = cpu.separable_conv2d(x, depthwise, pointwise, bias, offset, *window, None, None, residual)
    assert torch.equal(got, wanted + residual), ("separable", *case)
    got = cpu.pointwise_conv2d(filtered, pointwise, offset, None, residual)
    assert torch.equal(got, wanted + residual), ("pointwise", *case)
    got = cpu.pointwise_conv2d(filtered, pointwise, offset, "hardswish", residual)
    assert not got.isnan().any()
    standard = numbers(guarded(outputs, channels, kernel, kernel))
    got = cpu.conv2d(x, standard, offset, *window, 1, None)
    assert torch.equal(got, conv(x, standard, offset, stride, kernel // 2)), ("standard", *case)
    cases += 5
    kept.clear()
print(cases, "cases")
