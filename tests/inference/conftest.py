"""Small networks whose values stay away from zero, and one way to compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import ninefold


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


@pytest.fixture
def separable() -> Callable[..., nn.Sequential]:
    """Make depthwise, batch-norm, activation, pointwise, batch-norm with lively statistics."""

    def make(channels: int = 8, out_channels: int = 8, *, activation: Any = nn.ReLU6, **options: Any):
        options = {"padding": 1} | options
        block = nn.Sequential(
            nn.Conv2d(channels, channels, 3, groups=channels, bias=False, **options),
            nn.BatchNorm2d(channels),
            activation(inplace=True),
            nn.Conv2d(channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        return lively(block)

    return make


def lively(model: nn.Module) -> nn.Module:
    """Give every batch-norm statistics and weights that are not those it starts with."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model


@pytest.fixture(name="lively")
def _lively() -> Callable[[nn.Module], nn.Module]:
    return lively


@pytest.fixture
def freeze() -> Callable[..., ninefold.inference.InferenceModel]:
    """Freeze a model and hold the results to the model's, at the example's batch and at another."""

    def run(model: nn.Module, *inputs: Any, batches: tuple[int, ...] = (3,), **options: Any):
        fast = ninefold.for_inference(model, inputs, **options)
        model = model.eval()
        cases = [inputs, *(_of_batch(inputs, batch) for batch in batches)]
        for case in cases:
            with torch.no_grad():
                want, got = model(*_clones(case)), fast(*_clones(case))
            assert pytree.tree_structure(got) == pytree.tree_structure(want)
            for ours, theirs in zip(pytree.tree_leaves(got), pytree.tree_leaves(want), strict=True):
                torch.testing.assert_close(
                    ours, theirs, rtol=1e-5, atol=1e-5 * max(1, theirs.abs().max().item())
                )
        return fast

    return run


def _of_batch(inputs: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    random = torch.Generator().manual_seed(batch)

    def again(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or leaf.dim() != 4:
            return leaf
        return torch.randn(batch, *leaf.shape[1:], generator=random).to(leaf.dtype)

    return pytree.tree_map(again, inputs)


def _clones(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, inputs)
