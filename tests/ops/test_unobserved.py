"""Calls that go past PyTorch's dispatcher: only where nobody can tell."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ninefold import ops
from ninefold.ops import library

X = torch.randn(1, 16, 14, 14, generator=torch.Generator().manual_seed(1))
FILTERS, SQUARE = torch.randn(16, 1, 3, 3), torch.randn(16, 16, 3, 3)
SMALL, MATRIX, BIAS = torch.randn(16, 1, 2, 2), torch.randn(16, 16, 1, 1), torch.randn(16)
CALLS = {
    "conv2d": lambda x: ops.conv2d(x, SQUARE, BIAS, padding=1, activation="relu"),
    "pointwise_conv2d": lambda x: ops.pointwise_conv2d(x, MATRIX, BIAS, residual=x),
    "depthwise_conv2d": lambda x: ops.depthwise_conv2d(x, SMALL, BIAS, activation="silu"),
    "separable_conv2d": lambda x: ops.separable_conv2d(x, FILTERS, MATRIX, BIAS, BIAS, padding=1),
}


@pytest.fixture(params=CALLS)
def call(request):
    """An operator's name, and a call of it."""
    return request.param, CALLS[request.param]


@pytest.fixture(params=[(14, 14), (3, 3)], ids=["kernels", "few pixels"])
def x(request, layout):
    """An image large enough for the kernels, and one that may be left to PyTorch, in both layouts."""
    h, w = request.param
    return X[:, :, :h, :w].contiguous(memory_format=layout)


@pytest.fixture
def dispatched(monkeypatch):
    """Count the calls that go through the dispatcher."""
    seen = []
    for name in CALLS:
        real = getattr(library, name)

        def counted(*args, real=real, name=name):
            seen.append(name)
            return real(*args)

        monkeypatch.setattr(library, name, counted)
    return seen


def test_a_plain_call_goes_past_it_and_gives_the_same(call, x, dispatched):
    name, run = call
    plain = run(x)
    with torch.inference_mode():
        assert torch.equal(run(x.clone()), plain)
    assert not dispatched
    with_gradient = run(x.clone().requires_grad_())
    assert dispatched == [name]
    assert "ninefold" in with_gradient.grad_fn.name()
    assert torch.equal(with_gradient, plain)
    assert with_gradient.stride() == plain.stride()


def test_modes_see_an_operator(call, x):
    name, run = call
    plain, seen = run(x), []

    class Dispatch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    class Function(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    for mode in (Dispatch, Function):
        seen.clear()
        with mode():
            assert torch.equal(run(x), plain)
        assert f"ninefold.{name}.default" in seen


def test_a_profiler_sees_an_operator(call, x):
    name, run = call
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run(x)
    assert f"ninefold::{name}" in {event.name for event in profile.events()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_trace_never_holds_numbers_of_its_example(call, x):
    _, run = call
    # Sizes are tensors while PyTorch traces, and refused; what matters is that nothing is computed unseen.
    with pytest.raises(TypeError, match="`x` must be of a shape made of ints"):
        torch.jit.trace(run, x, check_trace=False)


def test_autocast_and_subclasses_are_pytorchs(call, x, dispatched):
    name, run = call
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run(x)
    assert dispatched == [name]

    class Named(torch.Tensor):
        pass

    assert type(run(x.as_subclass(Named))) is Named


def test_tensors_that_only_say_what_their_numbers_are(call, x):
    _, run = call
    turned = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert turned.is_neg()
    torch.testing.assert_close(run(turned), run(turned.clone().resolve_neg()))
    nothing = torch._efficientzerotensor(x.shape)
    torch.testing.assert_close(run(nothing), run(torch.zeros(x.shape)))


def test_forward_gradients_and_functorch(call, x):
    _, run = call
    tangent = torch.randn(x.shape)
    with forward_ad.dual_level():
        along = forward_ad.unpack_dual(run(forward_ad.make_dual(x.clone(), tangent))).tangent
    assert along is not None
    torch.testing.assert_close(torch.func.jvp(run, (x,), (tangent,))[1], along)
    several = torch.vmap(run)(torch.stack([x, 2 * x]))
    torch.testing.assert_close(several[1], run(2 * x), rtol=1e-4, atol=1e-4)
