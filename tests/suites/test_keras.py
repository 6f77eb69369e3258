"""Keras's depthwise and separable layers over the parameters of its own tests, Keras itself as the oracle."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
import torch

from ninefold import ops

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="Keras is not installed", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# depth_multiplier, kernel_size, strides, padding, dilation_rate: a stride or a dilation, not both.
TABLE = [
    (multiplier, kernel, strides, padding, dilation)
    for multiplier, kernel, (strides, dilation), padding in itertools.product(
        (1, 2, 5),
        (1, 2, 3, (3, 4), 5),
        (((1, 1), (1, 1)), ((2, 2), (1, 1)), ((3, 3), (1, 1)), ((1, 1), (2, 2)), ((1, 1), (3, 2))),
        ("valid", "same"),
    )
]
PADDING = {"valid": "valid", "same": "same_upper"}


def fill(layer, random) -> list[torch.Tensor]:
    """Give the layer integers, which float32 sums exactly; returns them as PyTorch has its weights."""
    values = [random.integers(-4, 5, w.shape).astype(np.float32) for w in layer.get_weights()]
    layer.set_weights(values)
    return [torch.from_numpy(value) for value in values]


def depthwise_weight(kernel: torch.Tensor) -> torch.Tensor:
    """(kh, kw, C, multiplier) as (C·multiplier, 1, kh, kw)."""
    tall, wide, channels, multiplier = kernel.shape
    return kernel.permute(2, 3, 0, 1).reshape(channels * multiplier, 1, tall, wide)


def layers(kind, image, **options):
    """Each row's geometry, the layer's weights, and what Keras makes of `image` (batch, H, W, C)."""
    random, found = np.random.default_rng(3), []
    for multiplier, kernel, strides, padding, dilation in TABLE:
        layer = kind(
            kernel_size=kernel,
            strides=strides,
            padding=padding,
            depth_multiplier=multiplier,
            dilation_rate=dilation,
            data_format="channels_last",
            **options,
        )
        layer.build(image.shape)
        weights = fill(layer, random)
        want = keras.ops.convert_to_numpy(layer(image))
        found.append(({"stride": strides, "padding": PADDING[padding], "dilation": dilation}, weights, want))
    assert len(found) == 150
    return found


def integers(*shape):
    return np.random.default_rng(4).integers(-4, 5, shape).astype(np.float32)


IMAGES = {"even": integers(2, 16, 12, 6), "odd": integers(2, 13, 9, 6)}


@pytest.fixture(scope="module", params=IMAGES)
def depthwise(request):
    image = IMAGES[request.param]
    return torch.from_numpy(image).permute(0, 3, 1, 2), layers(keras.layers.DepthwiseConv2D, image)


@pytest.fixture(scope="module", params=[None, "relu", "relu6"], ids=str)
def separable(request):
    image = IMAGES["odd"]
    options = {"filters": 11, "activation": request.param}
    x = torch.from_numpy(image).permute(0, 3, 1, 2)
    return x, layers(keras.layers.SeparableConv2D, image, **options), request.param


def test_depthwise_layers_agree(isa, depthwise) -> None:
    x, found = depthwise
    for geometry, (weight, bias), want in found:
        got = ops.depthwise_conv2d(x, depthwise_weight(weight), bias, **geometry)
        np.testing.assert_array_equal(got.permute(0, 2, 3, 1).numpy(), want, err_msg=str(geometry))


def test_separable_layers_agree(isa, separable) -> None:
    x, found, activation = separable
    for geometry, (first, second, bias), want in found:
        weights = depthwise_weight(first), second.permute(3, 2, 0, 1), None, bias
        got = ops.separable_conv2d(x, *weights, **geometry, activation=activation)
        np.testing.assert_array_equal(got.permute(0, 2, 3, 1).numpy(), want, err_msg=str(geometry))
