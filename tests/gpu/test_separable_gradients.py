"""A separable convolution's gradients in Triton's kernels, with activations, biases and a residual."""

from __future__ import annotations

import pytest
import torch

from ninefold import ops
from ninefold.ops import fallback

NAMES = ("x", "first", "second", "first_bias", "second_bias", "residual")


@pytest.mark.parametrize(
    ("activations", "dtype"),
    [
        (("relu6", None), torch.float32),
        ((None, "silu"), torch.float32),
        (("hardswish", "relu"), torch.bfloat16),
    ],
)
def test_every_gradient(activations, dtype, device, image, near, launched):
    shapes = (2, 12, 7, 6), (12, 1, 3, 3), (20, 12, 1, 1), (12,), (20,), (2, 20, 4, 3)
    scales = 1, 0.3, 0.3, 1, 1, 1
    given = [image(*shape, dtype=dtype, scale=scale) for shape, scale in zip(shapes, scales, strict=True)]
    for tensor in given:
        tensor.requires_grad_()
    *own, residual = given
    out = ops.separable_conv2d(
        *own,
        stride=2,
        padding=1,
        depthwise_activation=activations[0],
        activation=activations[1],
        residual=residual,
    )
    along = image(*out.shape, dtype=dtype)
    got = torch.autograd.grad(out, given, along)
    assert {"depthwise_weight_kernel", "pointwise_weight_kernel"} <= set(launched)
    wide = [tensor.detach().double().cpu().requires_grad_() for tensor in given]
    geometry = (2, 2), (1, 1, 1, 1), (1, 1)
    right = fallback.separable_conv2d(*wide[:5], *geometry, *activations, wide[5])
    for ours, theirs in zip(got, torch.autograd.grad(right, wide, along.double().cpu()), strict=True):
        assert ours.dtype is dtype
        near(ours, theirs, times=8)


def test_only_what_is_needed_is_made(image, launched):
    x, first, second = image(1, 8, 5, 5), image(8, 1, 3, 3), image(8, 8, 1, 1).requires_grad_()
    torch.autograd.grad(ops.separable_conv2d(x, first, second, padding=1).sum(), second)
    assert "pointwise_weight_kernel" in launched and "depthwise_weight_kernel" not in launched


def test_gradients_of_gradients_are_pytorchs(image, launched):
    x, first, second = image(1, 8, 5, 5).requires_grad_(), image(8, 1, 3, 3), image(8, 8, 1, 1)
    out = ops.separable_conv2d(x, first, second, padding=1, activation="silu")
    (once,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    launched.clear()
    (twice,) = torch.autograd.grad(once.square().sum(), x)
    assert twice.abs().max() > 0 and launched == []
