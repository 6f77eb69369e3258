"""Operators inside PyTorch: registration, gradients, compilation, export, function transforms."""

from __future__ import annotations

import warnings

import pytest
import torch

from ninefold import ops
from ninefold.ops import fallback, gradients, library
from ninefold.shape import ACTIVATIONS


def _tensor(*shape: int, layout: torch.memory_format = torch.contiguous_format, **options) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), **options)
    return made.to(memory_format=layout).requires_grad_() if len(shape) == 4 else made.requires_grad_()


def _samples(batch: int, layout: torch.memory_format, **options):
    def t(*shape):
        return _tensor(*shape, layout=layout, **options)

    x = t(batch, 4, 7, 6)
    geometry = ((2, 1), (1, 0, 2, 1), (1, 2))
    return {
        "conv2d": (x, t(6, 2, 3, 3), _tensor(6, **options), *geometry, 2, "relu6"),
        "depthwise_conv2d": (x, t(8, 1, 3, 3), None, (1, 1), (1, 1, 1, 1), (1, 1), "silu"),
        "pointwise_conv2d": (x, t(5, 4, 1, 1), _tensor(5, **options), "gelu_tanh", t(batch, 5, 7, 6)),
        "separable_conv2d": (
            *(x, t(8, 1, 3, 3), t(5, 8, 1, 1), _tensor(8, **options), None, *geometry),
            *("hardswish", None, t(batch, 5, 4, 3)),
        ),
    }


@pytest.mark.parametrize("activation", gradients.ACTIVATIONS)
@pytest.mark.parametrize("channels", [3, 8, 17])
def test_an_activations_slope(isa, layout, channels, activation):
    before = 3 * _tensor(2, channels, 5, 4, layout=layout).detach()
    grad = torch.randn_like(before)
    sample = grad, before, activation
    torch.library.opcheck(torch.ops.ninefold.activation_backward.default, sample)
    before[0, 0, 0, :2] = torch.tensor([-3.0, float("nan")])
    exact = gradients.ACTIVATIONS[activation](grad.double(), before.double())
    got = torch.ops.ninefold.activation_backward(*sample)
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=4e-6, equal_nan=True)


NAMES = ["conv2d", "depthwise_conv2d", "pointwise_conv2d", "separable_conv2d"]


@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("name", NAMES)
def test_opcheck(isa, layout, name, batch):
    torch.library.opcheck(getattr(library, name), _samples(batch, layout)[name])


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_parts(isa, layout, name):
    sample = _samples(2, layout)[name]
    inputs = [value for value in sample if isinstance(value, torch.Tensor)]
    got, want = getattr(library, name)(*sample), getattr(fallback, name)(*sample)
    torch.manual_seed(5)  # of 300 seeds one is beyond the bound, which float32's own rounding is near
    grad = torch.randn_like(want)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, grad), torch.autograd.grad(want, inputs, grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def _to_float64(run, inputs, tolerance=1e-5):
    # Gradients of a random direction, against the same in float64.
    torch.manual_seed(5)
    leaves = [value for value in inputs if value is not None]
    double = [None if value is None else value.detach().double().requires_grad_() for value in inputs]
    got, want = run(*inputs), run(*double)
    arriving = torch.randn_like(got)
    ours = torch.autograd.grad(got, leaves, arriving)
    theirs = torch.autograd.grad(want, [value for value in double if value is not None], arriving.double())
    for mine, exact in zip(ours, theirs, strict=True):
        assert mine.shape == exact.shape
        assert (mine - exact).abs().max() <= tolerance * max(1, exact.abs().max())


@pytest.mark.parametrize("channels", [1, 3, 4, 8, 17, 40, 96])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7])
def test_gradients_of_windows_in_float64(isa, layout, channels, kernel):
    for stride, dilation, padding in (
        (1, 1, kernel // 2),
        (2, 1, kernel // 2),
        (2, 1, (0, 1, 2, 0)),
        (3, 2, 4),
    ):
        x = _tensor(2, channels, 15, 13, layout=layout)
        weight, bias = _tensor(channels, 1, kernel, kernel), _tensor(channels)

        def run(x, weight, bias, window=(stride, padding, dilation)):
            stride, padding, dilation = window
            return ops.depthwise_conv2d(x, weight, bias, stride=stride, padding=padding, dilation=dilation)

        _to_float64(run, (x, weight, bias))


@pytest.mark.parametrize("threads_", [1, 2])
def test_gradients_of_matrices_in_float64(isa, layout, threads_):
    before = torch.get_num_threads()
    torch.set_num_threads(threads_)
    for inputs, outputs, size in ((1, 1, 1), (3, 17, 5), (16, 96, 9), (40, 24, 7), (65, 33, 12), (192, 5, 3)):
        tensors = (_tensor(2, inputs, size, size, layout=layout), _tensor(outputs, inputs, 1, 1))
        _to_float64(ops.pointwise_conv2d, (*tensors, _tensor(outputs)))
    torch.set_num_threads(before)


@pytest.mark.parametrize("create_graph", [False, True])
def test_the_kernels_make_the_gradients(monkeypatch, create_graph):
    from ninefold.ops import passes

    calls = []
    for name in ("depthwise_backward", "pointwise_backward"):
        run = getattr(passes, name)
        monkeypatch.setattr(passes, name, lambda *a, run=run, name=name: calls.append(name) or run(*a))
    inputs = _tensor(2, 8, 6, 6), _tensor(8, 1, 3, 3), _tensor(5, 8, 1, 1)
    out = ops.separable_conv2d(*inputs, padding=1, depthwise_activation="relu")
    torch.autograd.grad(out.square().sum(), inputs, create_graph=create_graph)
    assert calls == ([] if create_graph else ["pointwise_backward", "depthwise_backward"])


@pytest.mark.parametrize("name", NAMES)
def test_only_the_gradients_asked_for_are_made(name):
    sample = [
        value.detach() if isinstance(value, torch.Tensor) else value
        for value in _samples(2, torch.contiguous_format)[name]
    ]
    for index, value in enumerate(sample):
        if isinstance(value, torch.Tensor):
            one = [*sample[:index], value.clone().requires_grad_(), *sample[index + 1 :]]
            getattr(library, name)(*one).sum().backward()
            assert one[index].grad.shape == value.shape


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_gradcheck(activation):
    double = {"dtype": torch.float64}
    inputs = (
        *(_tensor(2, 3, 5, 6, **double), _tensor(6, 1, 3, 3, **double), _tensor(4, 6, 1, 1, **double)),
        *(_tensor(6, **double), _tensor(4, **double), _tensor(2, 4, 3, 3, **double)),
    )

    def run(x, depthwise, pointwise, depthwise_bias, pointwise_bias, residual):
        return ops.separable_conv2d(
            *(x, depthwise, pointwise, depthwise_bias, pointwise_bias),
            stride=2,
            padding=(0, 1, 2, 0),
            depthwise_activation=activation,
            activation=activation,
            residual=residual,
        )

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    if activation == "hardsigmoid":  # PyTorch has no second gradient for it, and says so
        with pytest.raises(
            RuntimeError, match="derivative for aten::hardsigmoid_backward is not implemented"
        ):
            torch.autograd.gradgradcheck(run, inputs, fast_mode=True)
    else:
        assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def _block(x, depthwise, pointwise):
    return ops.separable_conv2d(
        x, depthwise, pointwise, stride=2, padding="same_upper", depthwise_activation="silu"
    )


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_whole_with_its_gradients(isa, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(_block, backend="aot_eager", dynamic=dynamic, fullgraph=True)
    for size in ((6, 7), (5, 5), (8, 4)):
        inputs = [_tensor(2, 4, *size), _tensor(4, 1, 3, 3), _tensor(3, 4, 1, 1)]
        got, want = compiled(*inputs), _block(*inputs)
        torch.testing.assert_close(got, want)
        grad = torch.randn_like(want)
        torch.testing.assert_close(
            torch.autograd.grad(got, inputs, grad), torch.autograd.grad(want, inputs, grad)
        )


def test_exports_with_a_dynamic_batch():
    class Model(torch.nn.Module):
        def forward(self, x, depthwise, pointwise):
            return _block(x, depthwise, pointwise)

    inputs = (torch.randn(2, 4, 6, 7), torch.randn(4, 1, 3, 3), torch.randn(3, 4, 1, 1))
    batch = torch.export.Dim("batch")
    program = torch.export.export(Model(), inputs, dynamic_shapes=({0: batch}, None, None))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert names == ["ninefold.separable_conv2d.default"]
    other = (torch.randn(5, 4, 6, 7), *inputs[1:])
    torch.testing.assert_close(program.module()(*other), _block(*other))


def test_function_transforms():
    x, weight = torch.randn(3, 1, 4, 5, 5), torch.randn(2, 4, 1, 1)

    def run(x):
        return ops.pointwise_conv2d(x, weight, activation="relu")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(torch.vmap(run)(x), torch.stack([run(each) for each in x]))
    gradient = torch.func.grad(lambda x: run(x).sum())(x[0])
    leaf = x[0].clone().requires_grad_()
    run(leaf).sum().backward()
    torch.testing.assert_close(gradient, leaf.grad)
    direction = torch.randn_like(x[0])
    _, tangent = torch.func.jvp(lambda x: ops.pointwise_conv2d(x, weight), (x[0],), (direction,))
    torch.testing.assert_close(tangent, ops.pointwise_conv2d(direction, weight))


def test_inference_mode_and_no_grad_give_no_graph():
    x, weight = _tensor(1, 4, 5, 5), _tensor(2, 4, 1, 1)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert not ops.pointwise_conv2d(x, weight).requires_grad
