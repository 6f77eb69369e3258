"""Chains in the kernels: every gradient against PyTorch's in float64, on awkward shapes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from ninefold.ops import whole
from ninefold.shape import ACTIVATIONS
from ninefold.training import chain
from ninefold.training.chain import Normalisation, Stage

BATCH, RUNNING = Normalisation(1e-5, True), Normalisation(1e-5, False)
POINT = ((1, 1), (0, 0, 0, 0), (1, 1), 1)


@pytest.fixture(autouse=True)
def _kernels(isa: str) -> None:
    """Every test here runs on each instruction set, and on PyTorch's own operators."""
    torch.manual_seed(3)


def pointwise(inputs: int, outputs: int, activation: str | None = "relu6", normalisation=BATCH, bias=False):
    weight = torch.randn(outputs, inputs, 1, 1) / inputs**0.5
    stage = Stage("pointwise", *POINT, normalisation, activation)
    return stage, (weight, torch.randn(outputs) if bias else None, *_norm(outputs, normalisation))


def depthwise(
    channels: int,
    kernel,
    stride=1,
    padding=None,
    dilation=1,
    activation="relu6",
    normalisation=BATCH,
    bias=False,
):
    kernel_h, kernel_w = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    stride = stride if isinstance(stride, tuple) else (stride, stride)
    if padding is None:
        padding = (kernel_w // 2, kernel_w // 2, kernel_h // 2, kernel_h // 2)
    weight = torch.randn(channels, 1, kernel_h, kernel_w) / (kernel_h * kernel_w) ** 0.5
    stage = Stage("depthwise", stride, padding, (dilation, dilation), channels, normalisation, activation)
    return stage, (weight, torch.randn(channels) if bias else None, *_norm(channels, normalisation))


def standard(inputs: int, outputs: int, activation="relu6"):
    weight = torch.randn(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5
    stage = Stage("standard", (2, 2), (0, 1, 0, 1), (1, 1), 1, BATCH, activation)
    return stage, (weight, None, *_norm(outputs, BATCH))


def sparse(inputs: int, outputs: int, stride=(2, 2), activation="relu6", bias=False):
    weight = torch.randn(outputs, inputs, 1, 1) / inputs**0.5
    stage = Stage("standard", stride, (0, 0, 0, 0), (1, 1), 1, BATCH, activation)
    return stage, (weight, torch.randn(outputs) if bias else None, *_norm(outputs, BATCH))


def _norm(channels: int, normalisation: Normalisation | None):
    if normalisation is None:
        return (None,) * 4
    gamma, variance = torch.rand(channels) + 0.5, torch.rand(channels) + 0.5
    return gamma, torch.randn(channels) * 0.3, torch.randn(channels) * 0.1, variance


def held(x, layers, residual=None, keep="float32", tolerance=3e-6, frozen=()):
    """Run a chain both ways; hold output, statistics and gradients to float64. Return ours."""
    stages, tensors = zip(*layers, strict=True)
    tensors = [tuple(None if t is None else t.clone() for t in row) for row in tensors]
    named = {"x": x, "residual": residual}
    for i, row in enumerate(tensors):
        for name, tensor in zip(("weight", "bias", "gamma", "beta"), row[:4], strict=True):
            named[f"{name}{i}"] = tensor
    named = {name: t for name, t in named.items() if t is not None and name not in frozen}
    for tensor in named.values():
        tensor.requires_grad_()
    out, found = chain.run(x, stages, tensors, residual, keep=keep)
    arriving = torch.randn_like(out)
    gradients = dict(zip(named, torch.autograd.grad(out, named.values(), arriving), strict=True))

    double = {id(t): t.detach().double().requires_grad_() for t in named.values()}

    def to(tensor):
        return None if tensor is None else double.get(id(tensor), tensor.detach().double())

    # The variables of scale-invariant weights and of biases that a mean takes out again have no gradient but
    # rounding: errors are held against the largest gradient that any of the same kind has.
    wanted, statistics = chain._plain(to(x), stages, [tuple(map(to, row)) for row in tensors], to(residual))
    theirs = torch.autograd.grad(wanted, [to(t) for t in named.values()], arriving.double())
    assert out.is_contiguous(memory_format=torch.channels_last)
    near(out, wanted, tolerance)
    for ours, other in zip(found, statistics, strict=True):
        for got, want in zip(ours, other, strict=True):
            assert not got.requires_grad
            near(got, want, tolerance)
    largest = max(float(gradient.abs().max()) for gradient in theirs)
    for (name, got), want in zip(gradients.items(), theirs, strict=True):
        scale = max(float(want.abs().max()), 0.01 * largest)
        assert float((got - want).abs().max()) <= 10 * tolerance * scale, name
    return out, gradients


def near(got, want, tolerance):
    assert got.shape == want.shape
    if want.numel():
        got, want = got.detach(), want.detach()
        assert float((got - want).abs().max()) <= tolerance * max(1, float(want.abs().max()))


@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (3, 1), (4, 4)])
@pytest.mark.parametrize("inputs", [3, 8, 17])
@pytest.mark.parametrize("before", [None, "plain", "relu6", "silu"])
def test_a_pointwise_convolution_at_a_stride(threads, stride, inputs, before):
    x = torch.randn(3, inputs, 9, 7)
    first = [pointwise(inputs, 12, None if before == "plain" else before)] if before and inputs > 3 else []
    layers = [*first, sparse(12 if first else inputs, 20, stride, bias=inputs == 8), depthwise(20, 3)]
    held(x, layers)
    held(x, layers, frozen=("x", "weight0"))


def test_a_value_beside_the_sampled_pixels_is_seen_by_the_statistics_alone():
    x = torch.randn(2, 8, 5, 5)
    layers = [pointwise(8, 8, "relu"), sparse(8, 8)]
    (stages, tensors), image = zip(*layers, strict=True), x.clone().requires_grad_()
    image.data[0, 0, 1, 1] = float("nan")
    out, _ = chain.run(image, stages, tensors)
    wanted, _ = chain._plain(other := image.detach().clone().requires_grad_(), stages, tensors, None)
    assert torch.equal(out.isnan(), wanted.isnan())
    out.sum().backward()
    wanted.sum().backward()
    assert torch.equal(image.grad.isnan(), other.grad.isnan())


@pytest.mark.parametrize("channels", [4, 8, 17, 40, 96])
def test_an_inverted_residual(threads, channels):
    x = torch.randn(2, channels, 9, 7)
    wide = channels + 7
    layers = [pointwise(channels, wide), depthwise(wide, 3), pointwise(wide, channels, None)]
    held(x, layers, residual=torch.randn(2, channels, 9, 7))


CASES = [
    (kernel, stride, dilation, padding)
    for kernel, stride, dilation in itertools.product((1, 2, 3, 4, 5, 7, (3, 5)), (1, 2, 3, (2, 1)), (1, 2))
    for padding in (None, (0, 2, 1, 0))
]


@pytest.mark.parametrize("part", range(4))
def test_every_window(part):
    # With running statistics, or the gradient of a 1×1 filter would be nothing but rounding.
    for kernel, stride, dilation, padding in CASES[part::4]:
        layer = depthwise(17, kernel, stride, padding, dilation, normalisation=RUNNING)
        held(torch.randn(2, 17, 14, 15), [depthwise(17, 3), layer])


def test_stages_alone_in_every_size(threads):
    for height, width, stride in itertools.product((5, 8), (5, 12), (1, 2)):
        held(torch.randn(3, 20, height, width), [depthwise(20, 3, stride, activation=None)])
        held(torch.randn(3, 20, height, width), [pointwise(20, 13, None)])


def window(inputs, outputs, like):
    """A standard convolution with the window of another layer."""
    stage, (weight, *others) = like
    weight = torch.randn(outputs, inputs, *weight.shape[2:]) / (inputs * weight[0].numel()) ** 0.5
    return replace(stage, kind="standard", groups=1), (weight, *others)


WINDOWS = [
    (kernel, stride, dilation, padding)
    for kernel, stride, dilation in itertools.product((2, 3, (3, 5), 7), (1, 2, (2, 1)), (1, 2))
    for padding in (None, (0, 2, 1, 0))
]


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("inputs", [3, 17])
def test_every_window_of_a_standard_convolution(part, inputs, threads, monkeypatch):
    monkeypatch.setattr(whole, "FEWEST_COLUMNS", 1)
    for kernel, stride, dilation, padding in WINDOWS[part::4]:
        layer = window(inputs, 20, depthwise(20, kernel, stride, padding, dilation))
        image = torch.randn(2, inputs, 15, 14)
        held(image, [layer])
        held(image, [layer], frozen=("x",))
        held(torch.randn(2, 8, 15, 14), [pointwise(8, inputs), layer])


@pytest.mark.parametrize("channels", [1, 3])
def test_few_channels_run_in_pytorch(channels):
    layers = [depthwise(channels, 3), pointwise(channels, 8)]
    x = torch.randn(2, channels, 6, 6)
    assert chain.supported(x, *zip(*layers, strict=True)) == "fewer channels than a vector"
    held(x, layers)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations(activation):
    layers = [pointwise(9, 24, activation), depthwise(24, 5, 2, activation=activation)]
    held(torch.randn(2, 9, 11, 10), layers, tolerance=5e-6)


def ahead(layer, activation):
    """The layer with an activation that stands ahead of it."""
    stage, tensors = layer
    return replace(stage, ahead=activation), tensors


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("channels", [4, 17, 40])
def test_an_activation_ahead(threads, activation, channels):
    x = torch.randn(2, channels, 11, 10)
    for layer in (depthwise(channels, 3), depthwise(channels, 5, 2), depthwise(channels, 3, 3)):
        led = ahead(layer, activation)
        held(x, [led, pointwise(channels, channels, None)], tolerance=5e-6)
        held(x, [led], frozen=("x",), tolerance=5e-6)
    held(x, [ahead(pointwise(channels, 9), activation), depthwise(9, 3)], tolerance=5e-6)
    held(x, [ahead(depthwise(channels, 3, normalisation=None), activation)], residual=torch.randn_like(x))


def test_only_a_first_stage_with_kernels_has_an_activation_ahead():
    x = torch.randn(2, 8, 6, 6)
    for layers in ([depthwise(8, 3), ahead(pointwise(8, 8), "relu")], [ahead(standard(8, 8), "relu")]):
        with pytest.raises(ValueError, match="`stages` must have none with an activation ahead"):
            chain.run(x, *zip(*layers, strict=True))


@pytest.mark.parametrize("activation", ["relu", "relu6", "hardswish", "hardsigmoid"])
def test_gradients_at_the_kinks_are_pytorchs(activation):
    from ninefold.ops import fallback

    kinks = torch.tensor([-3.0, 0.0, 3.0, 6.0]).repeat(4)[None, :, None, None]
    rows = [(torch.eye(16)[:, :, None, None], None, None, None, None, None)]
    stage = Stage("pointwise", *POINT, None, activation)
    for special in (kinks, torch.full_like(kinks, torch.nan)):
        x = special.clone().requires_grad_()
        (theirs,) = torch.autograd.grad(fallback.ACTIVATIONS[activation](x).sum(), x)
        for one in (stage, replace(stage, activation=None, ahead=activation)):
            out, _ = chain.run(x, [one], rows)
            (ours,) = torch.autograd.grad(out.sum(), x)
            if special is kinks:
                torch.testing.assert_close(ours, theirs)
            assert not (ours == 0)[theirs.isnan()].any()


def test_a_stem_and_a_first_block():
    layers = [standard(3, 16), depthwise(16, 3), pointwise(16, 8, None)]
    held(torch.randn(2, 3, 18, 18), layers)
    held(torch.randn(2, 3, 18, 18), layers, frozen=("x",))
    layers = [pointwise(8, 12, "silu"), standard(12, 16)]
    held(torch.randn(2, 8, 10, 10), layers)


@pytest.mark.parametrize("normalisation", [None, RUNNING], ids=["none", "running"])
@pytest.mark.parametrize("activation", [None, "relu6", "silu"])
def test_without_batch_statistics(normalisation, activation):
    options = {"activation": activation, "normalisation": normalisation, "bias": True}
    layers = [pointwise(12, 20, **options), depthwise(20, 3, **options), pointwise(20, 8, **options)]
    held(torch.randn(2, 12, 9, 9), layers)


def test_a_bias_before_batch_norm():
    layers = [depthwise(12, 3, bias=True), pointwise(12, 20, bias=True)]
    _, gradients = held(torch.randn(2, 12, 9, 9), layers)
    assert float(gradients["bias0"].abs().max()) < 1e-4


def test_batch_norm_without_weights():
    stage, (weight, *_) = pointwise(8, 12)
    held(torch.randn(2, 8, 5, 5), [(stage, (weight, None, None, None, None, None)), depthwise(12, 3)])


def test_frozen_parameters_get_no_gradient_and_cost_none():
    layers = [pointwise(8, 12), depthwise(12, 3), pointwise(12, 8, None)]
    held(torch.randn(2, 8, 9, 9), layers, frozen=("x", "weight0", "gamma0", "beta0", "beta1"))
    stages, tensors = zip(*layers, strict=True)
    tensors[2][3].requires_grad_()
    out, _ = chain.run(torch.randn(2, 8, 9, 9), stages, tensors)
    out.sum().backward()
    assert tensors[2][3].grad is not None
    assert all(t.grad is None for row in tensors for t in row if t is not None and t is not tensors[2][3])


def test_statistics_far_from_zero(threads):
    """As near to float64 as PyTorch's own, where the mean is a thousand standard deviations."""
    stage, (weight, *_) = pointwise(16, 24, None)
    x = torch.randn(4, 16, 20, 20) + 1000
    weight = torch.eye(24, 16)[:, :, None, None]
    rows = [(weight, None, torch.ones(24), torch.zeros(24), None, None)]
    out, [(mean, variance)] = chain.run(x, [replace(stage, activation=None)], rows)
    raw = nn.functional.conv2d(x.double(), weight.double())
    exact = nn.functional.batch_norm(raw, None, None, training=True)
    theirs = nn.functional.batch_norm(raw.float(), None, None, training=True)
    torch.testing.assert_close(mean.double()[:16], raw.mean((0, 2, 3))[:16], rtol=1e-7, atol=0)
    torch.testing.assert_close(
        variance.double()[:16], raw.var((0, 2, 3), correction=0)[:16], rtol=1e-5, atol=0
    )
    assert float((out - exact)[:, :16].abs().max()) <= float((theirs - exact)[:, :16].abs().max())


def test_what_is_kept_may_be_bfloat16(isa):
    layers = [pointwise(8, 32), depthwise(32, 3), pointwise(32, 8, None)]
    stages, tensors = zip(*layers, strict=True)
    for row in tensors:
        row[0].requires_grad_()
    x = torch.randn(4, 8, 12, 12)
    exact, _ = chain.run(x, stages, tensors)
    coarse, _ = chain.run(x, stages, tensors, keep="bfloat16")
    torch.testing.assert_close(coarse, exact, rtol=0, atol=0)
    weights = [row[0] for row in tensors]
    arriving = torch.randn_like(exact)
    rounded = torch.autograd.grad(coarse, weights, arriving)
    for got, want in zip(rounded, torch.autograd.grad(exact, weights, arriving), strict=True):
        error = float((got - want).norm() / want.norm())
        assert error < 0.05
        assert isa == "fallback" or error > 1e-4


@pytest.mark.parametrize("activation", [None, "relu6", "silu"])
def test_nan_reaches_the_output_and_every_gradient(activation):
    layers = [pointwise(8, 16, activation), depthwise(16, 3, activation=activation), pointwise(16, 8, None)]
    stages, tensors = zip(*layers, strict=True)
    for row in tensors:
        row[0].requires_grad_()
    x = torch.randn(2, 8, 6, 6)
    x[0, 3, 2, 2] = torch.nan
    out, found = chain.run(x, stages, tensors)
    assert out.isnan().all()
    assert all(mean.isnan().all() and variance.isnan().all() for mean, variance in found)
    out.sum().backward()
    assert all(row[0].grad.isnan().all() for row in tensors)


def test_the_same_threads_give_the_same_bits(threads):
    layers = [pointwise(8, 40), depthwise(40, 3), pointwise(40, 8, None)]
    x = torch.randn(3, 8, 15, 15)
    stages, tensors = zip(*layers, strict=True)
    for row in tensors:
        row[0].requires_grad_()
    twice = []
    for _ in range(2):
        out, _ = chain.run(x, stages, tensors)
        twice.append([out, *torch.autograd.grad(out.square().sum(), [row[0] for row in tensors])])
    assert all(torch.equal(a, b) for a, b in zip(*twice, strict=True))


def test_a_second_derivative_is_refused_or_right(isa):
    stage, tensors = pointwise(8, 8)
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    out, _ = chain.run(x, [stage], [tensors])
    (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    if isa == "fallback":
        gradient.sum().backward()
        return
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_what_cannot_be_is_said():
    stage, tensors = pointwise(8, 8)
    with pytest.raises(
        ValueError, match=r"Expected more than 1 value per channel when training, got input size"
    ):
        chain.run(torch.randn(1, 8, 1, 1), [stage], [tensors])
    with pytest.raises(ValueError, match="`keep` must be float32 or bfloat16, got int8"):
        chain.run(torch.randn(1, 8, 2, 2), [stage], [tensors], keep="int8")
    with pytest.raises(ValueError, match="`tensors` must have one entry per stage, 1, got 2"):
        chain.run(torch.randn(1, 8, 2, 2), [stage], [tensors, tensors])
    frozen = replace(stage, normalisation=RUNNING)
    for lacking in ((*tensors[:4], None, tensors[5]), (*tensors[:5], None)):
        with pytest.raises(ValueError, match="`tensors` must have running statistics where"):
            chain.run(torch.randn(1, 8, 2, 2), [frozen], [lacking])
    assert chain.supported(torch.randn(1, 8, 2, 2).double(), [stage], [tensors]) == "not float32 on the CPU"
