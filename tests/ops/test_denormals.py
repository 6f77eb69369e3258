"""Numbers below 2⁻¹²⁶ are zero inside a call, and nowhere else: no thread is left as a call had it.

What they cost is measured by `make denormals`.
"""

from __future__ import annotations

import threading

import pytest
import torch

import ninefold
from ninefold import ops

_kernels = pytest.importorskip("ninefold._kernels", reason="the extension is not built")

TINY = 1e-39  # of the 2²³ denormals, in the middle


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def keeps_denormals() -> bool:
    """Whether this thread, and every thread of the pool, multiplies denormals as they are."""
    many = torch.full((1 << 18,), TINY)
    return bool((many * 0.5 != 0).all()) and TINY * 1e-280 != 0 and bool((many[:1] * 0.5 != 0).all())


def calls(channels: int, numbers: float):
    """Each operator on an image of one number, all of whose weights are a large one."""
    x, large = torch.full((2, channels, 24, 24), numbers), torch.full((channels, channels, 3, 3), 1e30)
    return {
        "conv2d": lambda: ops.conv2d(x, large),
        "depthwise": lambda: ops.depthwise_conv2d(x, large[:, :1]),
        "pointwise": lambda: ops.pointwise_conv2d(x, large[..., :1, :1]),
        "separable": lambda: ops.separable_conv2d(x, large[:, :1], large[..., :1, :1] * 0 + 1),
    }


@pytest.mark.parametrize("name", calls(1, 0.0))
def test_a_call_reads_denormals_as_zero_and_leaves_every_thread_as_it_was(isa, threads, name) -> None:
    if isa == "fallback":
        return
    assert keeps_denormals()
    assert calls(33, TINY)[name]().count_nonzero() == 0
    assert calls(33, 2.0**-126)[name]().count_nonzero() > 0
    assert keeps_denormals()


def test_a_training_step_leaves_every_thread_as_it_was(threads) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, 20, 20, requires_grad=True)
    weights = torch.randn(16, 1, 3, 3, requires_grad=True), torch.randn(8, 16, 1, 1, requires_grad=True)
    ops.separable_conv2d(x, *weights, padding=1, activation="silu").square().sum().backward()
    assert keeps_denormals()


def test_a_frozen_network_leaves_every_thread_as_it_was(threads) -> None:
    body = torch.nn.Sequential(
        torch.nn.Conv2d(16, 16, 3, padding=1, groups=16), torch.nn.ReLU6(), torch.nn.Conv2d(16, 24, 1)
    )
    x = torch.randn(6, 16, 20, 20)
    ninefold.for_inference(body.eval(), x)(x)
    assert keeps_denormals()


def test_an_exception_leaves_every_thread_as_it_was() -> None:
    for count in (1, 3):
        with pytest.raises(RuntimeError, match="a kernel refused its arguments"):
            _kernels.refuse(count)
        assert keeps_denormals()


def test_a_caller_who_flushes_goes_on_flushing() -> None:
    def work() -> None:
        torch.set_flush_denormal(True)
        calls(33, TINY)["separable"]()
        found.append(float(torch.tensor([TINY]) * 0.5))

    found: list[float] = []
    worker = threading.Thread(target=work)  # a thread of its own: the mode is one thread's
    worker.start()
    worker.join()
    assert found == [0.0]
    assert keeps_denormals()
