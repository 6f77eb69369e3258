"""Layers: PyTorch's layouts and names, the operators' answers, Keras's kernels."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from ninefold import nn, ops, reference


def _twin(multiplier: int, **options) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Conv2d(6, 6 * multiplier, 3, groups=6, bias=False, **options),
        torch.nn.Conv2d(6 * multiplier, 5, 1),
    )


def test_state_dicts_are_pytorchs():
    layer = nn.SeparableConv2d(6, 5, 3, multiplier=2, depthwise_bias=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    assert shapes == {
        "depthwise.weight": (12, 1, 3, 3),
        "depthwise.bias": (12,),
        "pointwise.weight": (5, 12, 1, 1),
        "pointwise.bias": (5,),
    }


@pytest.mark.parametrize("multiplier", [1, 3])
def test_a_layer_is_its_two_convolutions(multiplier):
    twin = _twin(multiplier, stride=2, padding=1)
    layer = nn.SeparableConv2d(6, 5, 3, multiplier=multiplier, stride=2, padding=1)
    layer.depthwise.load_state_dict(twin[0].state_dict())
    layer.pointwise.load_state_dict(twin[1].state_dict())
    x, residual = torch.randn(2, 6, 9, 9), torch.randn(2, 5, 5, 5)
    torch.testing.assert_close(layer(x), twin(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer(x, residual), twin(x) + residual, rtol=1e-5, atol=1e-5)
    stages = layer.pointwise(layer.depthwise(x), residual)
    torch.testing.assert_close(layer(x, residual), stages, rtol=1e-5, atol=1e-5)


def test_weights_start_as_those_of_conv2d():
    torch.manual_seed(3)
    layer = nn.DepthwiseConv2d(6, (3, 5), multiplier=2)
    torch.manual_seed(3)
    twin = torch.nn.Conv2d(6, 12, (3, 5), groups=6)
    assert layer.weight.equal(twin.weight)
    assert layer.bias.equal(twin.bias)


def test_training_reaches_every_parameter():
    layer = nn.SeparableConv2d(3, 4, 3, depthwise_bias=True, depthwise_activation="silu", activation="gelu")
    layer(torch.randn(2, 3, 6, 6)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


def test_keras_kernels_make_channel_c_times_multiplier_plus_m():
    random = np.random.default_rng(5)
    depthwise = random.integers(-3, 4, (3, 2, 4, 3)).astype(np.float32)
    pointwise = random.integers(-3, 4, (1, 1, 12, 5)).astype(np.float32)
    bias = random.integers(-3, 4, 5).astype(np.float32)
    x = random.integers(-3, 4, (2, 4, 7, 6)).astype(np.float32)
    layer = nn.SeparableConv2d.from_keras(depthwise, pointwise, bias, stride=2, padding="same_upper")
    filtered = nn.DepthwiseConv2d.from_keras(depthwise.tolist(), stride=2, padding="same_upper")(
        torch.tensor(x)
    )
    for c in range(4):
        for m in range(3):
            kernel = depthwise[:, :, c, m][None, None]
            want = reference.conv2d(x[:, c : c + 1], kernel, stride=2, padding="same_upper")
            np.testing.assert_array_equal(filtered[:, c * 3 + m].detach().numpy(), want[:, 0])
    combined = np.einsum("bchw,cn->bnhw", filtered.detach().numpy(), pointwise[0, 0]) + bias[:, None, None]
    np.testing.assert_array_equal(layer(torch.tensor(x)).detach().numpy(), combined)
    last = nn.PointwiseConv2d.from_keras(pointwise, bias)
    np.testing.assert_array_equal(last(filtered).detach().numpy(), combined)


def test_a_keras_layer_owns_its_weights():
    kernel = np.ones((3, 3, 2, 1), dtype=np.float32)
    layer = nn.DepthwiseConv2d.from_keras(kernel)
    kernel[:] = 7
    assert layer.weight.eq(1).all()
    assert layer.bias is None


def test_what_a_layer_says_of_itself():
    layer = nn.SeparableConv2d(6, 5, 3, stride=2, padding="same_upper", activation="relu", bias=False)
    assert repr(layer.depthwise) == (
        "DepthwiseConv2d(6, kernel_size=(3, 3), stride=(2, 2), padding='same_upper', bias=False)"
    )
    assert repr(layer.pointwise) == "PointwiseConv2d(6, 5, bias=False, activation='relu')"


def test_layers_copy_pickle_compile_and_move():
    layer = nn.SeparableConv2d(3, 4, 3, padding=1)
    x = torch.randn(1, 3, 5, 5)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other(x).equal(layer(x))
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert compiled(x).equal(layer(x))
    assert layer.double()(x.double()).dtype is torch.float64
    assert nn.SeparableConv2d(3, 4, 3, device="meta")(x.to("meta")).shape == (1, 4, 3, 3)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: nn.DepthwiseConv2d(0, 3), ValueError, "`in_channels` must be positive, got 0"),
        (lambda: nn.DepthwiseConv2d(3, 3, multiplier=1.5), TypeError, "`multiplier` must be an int, got 1.5"),
        (lambda: nn.DepthwiseConv2d(3, (3, 0)), ValueError, "`kernel_size` must be positive"),
        (lambda: nn.DepthwiseConv2d(3, 3, padding=-2), ValueError, "`padding` must be non-negative, got -2"),
        (lambda: nn.DepthwiseConv2d(3, 3, padding="same", stride=2), ValueError, "`padding='same'` is not"),
        (lambda: nn.DepthwiseConv2d(3, 3, bias=torch.ones(3)), TypeError, "`bias` must be a bool"),
        (lambda: nn.PointwiseConv2d(3, -1), ValueError, "`out_channels` must be positive, got -1"),
        (lambda: nn.PointwiseConv2d(3, 4, activation="mish"), ValueError, "`activation` must be .*'mish'"),
        (
            lambda: nn.SeparableConv2d(3, 4, 3, depthwise_activation="mish"),
            ValueError,
            "`depthwise_activation` must be .*'mish'",
        ),
        (
            lambda: nn.DepthwiseConv2d.from_keras(np.ones((3, 3, 2))),
            ValueError,
            r"`depthwise_kernel` must have shape \(kh, kw, channels, multiplier\), got \(3, 3, 2\)",
        ),
        (
            lambda: nn.PointwiseConv2d.from_keras(np.ones((3, 3, 2, 4))),
            ValueError,
            r"`pointwise_kernel` must have shape \(1, 1, in_channels, out_channels\), got \(3, 3, 2, 4\)",
        ),
        (
            lambda: nn.SeparableConv2d.from_keras(np.ones((3, 3, 2, 2)), np.ones((1, 1, 3, 4))),
            ValueError,
            "`pointwise_kernel` must take 4 input channels, got 3",
        ),
        (
            lambda: nn.PointwiseConv2d.from_keras(np.ones((1, 1, 2, 4)), np.ones(3)),
            ValueError,
            r"`bias` must have shape \(4,\), got \(3,\)",
        ),
    ],
)
def test_bad_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_bad_input_is_refused_as_the_operators_do():
    with pytest.raises(ValueError, match="`x` must have 4 dimensions"):
        nn.PointwiseConv2d(3, 4)(torch.zeros(3, 5, 5))
    with pytest.raises(TypeError, match=r"`x` must be a torch\.Tensor"):
        ops.pointwise_conv2d(np.zeros((1, 3, 5, 5)), torch.zeros(2, 3, 1, 1))
