"""The operators in Triton's kernels, forward against the definitions, gradients against PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ninefold import ops, reference
from ninefold.gpu import between, depthwise, pointwise
from ninefold.gpu.window import Window

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# channels, kernel, stride, padding (left, right, top, bottom), dilation
WINDOWS = [
    (16, (3, 3), 1, (1, 1, 1, 1), 1),
    (17, (3, 3), 2, (0, 1, 0, 1), 1),
    (8, (5, 5), 2, (2, 2, 2, 2), 1),
    (3, (3, 1), (2, 1), (0, 0, 2, 1), (2, 1)),
    (16, (3, 3), 3, (1, 0, 2, 1), 2),
]


def double(tensor):
    return None if tensor is None else tensor.detach().double().cpu()


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "dilation", "dtype"),
    # Every window in float32, the others' own code, rounding, in two.
    [(*window, DTYPES[0]) for window in WINDOWS]
    + [(*window, dtype) for window in WINDOWS[:2] for dtype in DTYPES[1:]],
)
def test_depthwise_and_its_gradients(
    channels, kernel, stride, padding, dilation, dtype, image, near, launched
):
    x = image(2, channels, 7, 6, dtype=dtype).requires_grad_()
    weight = image(channels, 1, *kernel, dtype=dtype, scale=0.3).requires_grad_()
    bias = image(channels, dtype=dtype)
    shape = {"stride": stride, "padding": padding, "dilation": dilation}
    out = ops.depthwise_conv2d(x, weight, bias, **shape)
    near(out, reference.depthwise_conv2d(double(x), double(weight), double(bias), **shape))
    along = torch.randn(out.shape).to(out)
    got = torch.autograd.grad(out, (x, weight), along)
    wide = [double(x).requires_grad_(), double(weight).requires_grad_()]
    right = F.conv2d(F.pad(wide[0], padding), wide[1], None, stride, 0, dilation, channels)
    for ours, theirs in zip(got, torch.autograd.grad(right, wide, double(along)), strict=True):
        assert ours.dtype is dtype
        near(ours, theirs)
    assert launched.count("depthwise_kernel") == 2 and "depthwise_weight_kernel" in launched


def test_depthwise_seven_by_seven(image, near, launched):
    x, weight = image(1, 5, 6, 6), image(5, 1, 7, 7, scale=0.2)
    near(
        ops.depthwise_conv2d(x, weight, padding=3),
        reference.depthwise_conv2d(double(x), double(weight), padding=3),
    )
    assert launched == ["depthwise_kernel"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "outputs"), [(16, 24), (19, 7), (70, 130)])
def test_pointwise_and_its_gradients(channels, outputs, dtype, image, near, launched):
    x = image(2, channels, 5, 3, dtype=dtype).requires_grad_()
    weight = image(outputs, channels, 1, 1, dtype=dtype, scale=channels**-0.5).requires_grad_()
    bias, residual = image(outputs, dtype=dtype), image(2, outputs, 5, 3, dtype=dtype)
    out = ops.pointwise_conv2d(x, weight, bias, activation="relu6", residual=residual)
    near(
        out,
        reference.pointwise_conv2d(
            double(x), double(weight), double(bias), activation="relu6", residual=double(residual)
        ),
    )
    along = torch.randn(out.shape).to(out)
    got = torch.autograd.grad(ops.pointwise_conv2d(x, weight), (x, weight), along)
    wide = [double(x).requires_grad_(), double(weight).requires_grad_()]
    for ours, theirs in zip(got, torch.autograd.grad(F.conv2d(*wide), wide, double(along)), strict=True):
        near(ours, theirs)
    assert launched.count("pointwise_kernel") == 3 and "pointwise_weight_kernel" in launched


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "outputs", "stride"), [(16, 24, 1), (35, 9, 2)])
def test_separable_in_one_kernel(channels, outputs, stride, dtype, image, near, launched):
    x = image(2, channels, 6, 7, dtype=dtype)
    first, second = (
        image(channels, 1, 3, 3, dtype=dtype, scale=0.3),
        image(outputs, channels, 1, 1, dtype=dtype),
    )
    biases = image(channels, dtype=dtype), image(outputs, dtype=dtype)
    named = {"stride": stride, "padding": 1, "depthwise_activation": "sigmoid", "activation": "relu"}
    out = ops.separable_conv2d(x, first, second, *biases, **named)
    right = reference.separable_conv2d(*(double(t) for t in (x, first, second, *biases)), **named)
    near(out, right)
    assert launched == ["separable_kernel"]


@pytest.mark.parametrize(
    "activation", ["relu", "relu6", "silu", "hardswish", "gelu", "gelu_tanh", "hardsigmoid"]
)
def test_activations_and_nan(activation, image, near):
    x = image(1, 16, 4, 4, scale=4)
    weight = torch.eye(16, device=x.device).view(16, 16, 1, 1)
    near(ops.pointwise_conv2d(x, weight, activation=activation), reference.activate(double(x), activation))
    x[0, 3, 1, 2] = torch.nan
    spoilt = ops.depthwise_conv2d(x, torch.ones(16, 1, 1, 1, device=x.device), activation=activation)
    assert torch.isnan(spoilt[0, 3, 1, 2]) and int(torch.isnan(spoilt).sum()) == 1


def test_moments_far_from_zero(image):
    x, weight = image(2, 8, 13, 9) + 1000, torch.ones(8, 1, 1, 1)
    window = Window((1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
    small = depthwise.Config(patch=(1, 2), lanes=(2, 2), channels=16, warps=1)
    taps, eye = depthwise.taps_first(weight).to(x.device), torch.eye(8, device=x.device)
    variance, mean = torch.var_mean(double(x), (0, 2, 3), correction=0)
    for made in (
        lambda into: depthwise.depthwise(x, taps, window, (13, 9), config=small, moments=into),
        lambda into: pointwise.pointwise(x, eye, config=pointwise.configs(8, 8)[0], moments=into),
        lambda into: between.moments(x, into),
    ):
        found = torch.full((2, 8), torch.nan, device=x.device)
        made(found)
        assert torch.allclose(double(found[0]), mean, rtol=1e-6)
        assert torch.allclose(double(found[1]), variance, rtol=1e-4)


def test_a_program_that_reduces_makes_several_tiles(image, monkeypatch):
    monkeypatch.setattr(depthwise, "_PROGRAMS", 1)
    monkeypatch.setattr(depthwise, "_MOST_TILES", 3)
    test_moments_far_from_zero(image)


def test_the_same_call_gives_the_same_bits(image):
    x, weight = image(2, 16, 7, 7), image(16, 1, 3, 3).requires_grad_()
    grads = [
        torch.autograd.grad(ops.depthwise_conv2d(x, weight, padding=1).square().sum(), weight)[0]
        for _ in "ab"
    ]
    assert torch.equal(*grads)


def test_what_has_no_kernel_is_pytorchs(image, near, launched):
    x, weight = image(1, 4, 9, 9), image(8, 1, 3, 3)
    near(ops.depthwise_conv2d(x, weight), reference.depthwise_conv2d(double(x), double(weight)))
    x, weight = image(1, 4, 9, 9).double(), image(4, 1, 3, 3).double()
    assert ops.depthwise_conv2d(x, weight).dtype is torch.float64
    assert launched == []
