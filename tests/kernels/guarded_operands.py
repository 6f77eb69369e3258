"""Run by test_memory.py: every operand ends at a page without permissions, every output starts as NaN."""

import itertools
import sys

import guards
import torch
from guards import guarded, numbers

from ninefold.ops import cpu

torch.manual_seed(0)
cpu._kernels.use(sys.argv[1])
torch.set_num_threads(2)
cpu.empty = lambda n, c, h, w: guarded(n, c, h, w, nhwc=True)
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
    got = cpu.depthwise_conv2d(x, depthwise, bias, (stride, stride), (0, 0, 0, 0), (1, 1), None)
    assert torch.equal(got, conv(x, depthwise, bias, stride, 0, 1, channels)), ("unpadded", *case)
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
    last = guarded(outputs, channels, kernel, kernel, nhwc=True).copy_(standard)
    assert torch.equal(cpu.conv2d(x, last, offset, *window, 1, None), got), ("filters", *case)
    cases += 7
    guards.forget()
print(cases, "cases")
