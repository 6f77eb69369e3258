"""Whole networks, by name: PyTorch's results, every convolution in a kernel."""

from __future__ import annotations

import pytest
import torch

import ninefold.training
from ninefold.training.evaluation import Evaluation

NETWORKS = ["mobilenetv2_100", "efficientnet_lite0", "mobilenetv3_small_100", "ghostnet_100", "convnext_atto"]


@pytest.fixture
def create():
    timm = pytest.importorskip("timm", reason="timm is not installed", exc_type=ImportError)
    return timm.create_model


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_agree_and_no_convolution_is_left(create, lively, agree, name):
    made: list[Evaluation] = []

    def backend(graph, inputs):
        run = ninefold.training.backend(graph, inputs)
        made.append(run.__self__)
        return run

    model = lively(create(name)).eval()
    fast = torch.compile(model, backend=backend)
    with torch.no_grad():
        for _ in range(2):
            agree(fast, model, torch.randn(2, 3, 64, 64))
    (evaluation,) = made
    assert isinstance(evaluation, Evaluation)
    assert evaluation.left == ()
    assert list(evaluation._agrees.values()) == [True]


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "convnext_atto"])
def test_batch_and_image_size_may_change(create, lively, agree, kernels, name):
    model = lively(create(name)).eval()
    fast = torch.compile(model, backend="ninefold")
    with torch.no_grad():
        first = torch.randn(2, 3, 64, 64)
        torch._dynamo.mark_dynamic(first, [0, 2, 3])
        fast(first)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for batch, height, width in [(3, 64, 96), (5, 96, 64), (2, 64, 64), (2, 128, 128)]:
                agree(fast, model, torch.randn(batch, 3, height, width))
                assert kernels.since()
