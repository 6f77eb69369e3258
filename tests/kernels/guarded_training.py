"""Run by test_memory.py: training's passes, operands at a page without permissions, outputs NaN first."""

import itertools
import sys

import guards
import numpy as np
import torch
from guards import guarded, numbers
from torch.nn import functional

from ninefold.ops import cpu, passes

torch.manual_seed(0)
cpu._kernels.use(sys.argv[1])
torch.set_num_threads(2)


class Guarding:
    # What `passes` sees of torch: its images, weights and sums are guarded.
    def __getattr__(self, name):
        return getattr(torch, name)

    def empty_like(self, tensor):
        last = tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
        return guarded(*tensor.shape, nhwc=last)

    def empty(self, shape, dtype=torch.float32, device=None):
        return guarded(*shape, dtype=np.float64 if dtype is torch.float64 else np.float32)


def image(*shape):
    return numbers(guarded(*shape, nhwc=True))


def operand(z, activation):
    # Mean 1, variance 3, scale 1 and shift -1: what is read are small whole numbers again.
    rows = guarded(4, z.shape[1])
    rows.copy_(torch.tensor([1.0, 3.0, 1.0, -1.0])[:, None].expand_as(rows))
    return passes.Operand(z, rows, activation)


def as_read(x):
    read = x.z if x.numbers is None else x.z - 2
    return {None: read, "relu6": read.clamp(0, 6), "silu": functional.silu(read)}[x.activation]


def turned(z):
    # p 2, q 1, r 3: the gradient of z is 2·(z - mean) + 2·(g + 3), and g passes everywhere.
    turn = guarded(3, z.shape[1])
    turn.copy_(torch.tensor([2.0, 1.0, 3.0])[:, None].expand_as(turn))
    arrived = image(*z.shape)
    return passes.Gradient(operand(z, None), arrived, turn), 2 * (z - 1 + arrived + 3)


def check(made, dz, x, weight, options, case):
    # The gradients of a convolution, and the two sums at the activation before it.
    read = as_read(x)
    shapes = read.shape, weight.shape
    along = torch.nn.grad.conv2d_input(shapes[0], weight, dz, **options)
    weights = torch.nn.grad.conv2d_weight(read, shapes[1], dz, **options)
    assert not made.input.isnan().any(), case
    if x.activation == "silu":
        torch.testing.assert_close(made.weight, weights, rtol=1e-4, atol=1e-2)
        return
    assert torch.equal(made.weight, weights), ("weight", *case)
    assert torch.equal(made.input, along), ("input", *case)
    if x.numbers is None:
        return
    passed = along if x.activation is None else along * ((x.z - 2 > 0) & (x.z - 2 < 6))
    sums = torch.stack([passed.sum((0, 2, 3)), (passed * (x.z - 1)).sum((0, 2, 3))])
    assert torch.equal(made.sums, sums.double()), ("sums", *case)


cpu.empty = lambda n, c, h, w: guarded(n, c, h, w, nhwc=True)
passes.torch = Guarding()
cases = 0
SHAPES = itertools.product((4, 17, 33, 65), (3, 5), (1, 2), (7, 12), (None, "relu6", "silu"))
for case in SHAPES:
    channels, kernel, stride, size, activation = case
    x = image(1, channels, size, size)
    x = operand(x, activation) if activation or size == 12 else passes.Operand(x)
    read, sides = as_read(x), (kernel // 2,) * 4
    weight = numbers(guarded(channels, 1, kernel, kernel))
    options = {"stride": stride, "padding": kernel // 2, "groups": channels}
    wanted = functional.conv2d(read, weight, **options)
    # Half of them past the caches.
    cpu._kernels.caches_hold(-1 if (channels + size) % 2 else 0)
    moments = guarded(2, channels)
    got = passes.depthwise(x, weight, None, (stride, stride), sides, (1, 1), moments)
    close = torch.equal if activation != "silu" else torch.allclose
    assert close(got, wanted) or torch.allclose(got, wanted, atol=1e-4), ("depthwise", *case)
    torch.testing.assert_close(moments[0], wanted.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    gradient, dz = turned(image(*wanted.shape))
    made = passes.depthwise_backward(gradient, x, weight, (stride, stride), sides, (1, 1), (True, True))
    check(made, dz, x, weight, options, ("depthwise", *case))

    outputs = channels % 29 + 4
    weight = numbers(guarded(outputs, channels, 1, 1))
    wanted = functional.conv2d(read, weight)
    got = passes.pointwise(x, weight, None, guarded(2, outputs))
    assert torch.allclose(got, wanted, atol=1e-4), ("pointwise", *case)
    gradient, dz = turned(image(*wanted.shape))
    made = passes.pointwise_backward(gradient, x, weight, (True, True))
    check(made, dz, x, weight, {}, ("pointwise", *case))

    assert torch.equal(passes.turn(gradient), dz), ("turn", *case)

    weight, options = numbers(guarded(outputs, channels, kernel, kernel)), {**options, "groups": 1}
    wanted, geometry = functional.conv2d(read, weight, **options), ((stride, stride), sides, (1, 1))
    got = passes.conv2d(x, weight, None, *geometry, guarded(2, outputs))
    assert torch.equal(got, wanted) if activation != "silu" else torch.allclose(got, wanted, atol=1e-4), case
    gradient, dz = turned(image(*wanted.shape))
    made = passes.conv2d_backward(gradient, x, weight, *geometry, (True, stride == 1))
    if stride == 1:
        check(made, dz, x, weight, options, ("standard", *case))
    elif activation != "silu":
        assert torch.equal(made.weight, torch.nn.grad.conv2d_weight(read, weight.shape, dz, **options)), case
    if x.numbers is not None:
        residual = image(*x.z.shape)
        torch.testing.assert_close(passes.apply(x, residual), read + residual)
        kept, sums = passes.reduce(x, image(*x.z.shape))
        assert not (kept.isnan().any() or sums.isnan().any())
    cases += 7
    guards.forget()
print(cases, "cases")
