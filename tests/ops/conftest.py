"""Tensors whose results are known: small integers, which float32 sums exactly, and random reals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ninefold.shape import ACTIVATIONS

EXACT = (None, "relu", "relu6")


@pytest.fixture
def integers() -> Callable[..., torch.Tensor]:
    """Make a float32 tensor of integers from -4 to 4: sums of their products stay below 2²⁴."""
    random = np.random.default_rng(9)

    def make(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.integers(-4, 5, shape).astype(np.float32))

    return make


@pytest.fixture
def reals() -> Callable[..., torch.Tensor]:
    """Make a float32 tensor of normally distributed reals."""
    random = np.random.default_rng(10)

    def make(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.standard_normal(shape).astype(np.float32))

    return make


@pytest.fixture(params=["nchw", "nhwc"])
def layout(request: pytest.FixtureRequest) -> torch.memory_format:
    """Run the test in both memory formats."""
    return torch.contiguous_format if request.param == "nchw" else torch.channels_last


@pytest.fixture(params=ACTIVATIONS, ids=str)
def activation(request: pytest.FixtureRequest) -> str | None:
    """Run the test with every activation."""
    name: str | None = request.param
    return name


@pytest.fixture
def assert_right() -> Callable[..., None]:
    """Compare with the reference: bit for bit where float32 is exact, else within 2e-6 of the range."""

    def check(got: torch.Tensor, want: np.ndarray, *activations: str | None) -> None:
        assert got.dtype is torch.float32
        assert tuple(got.shape) == want.shape
        if all(name in EXACT for name in activations):
            np.testing.assert_array_equal(got.numpy(), want.astype(np.float32))
        elif want.size:
            scale = max(1.0, float(np.abs(want).max()))
            np.testing.assert_allclose(got.numpy(), want, rtol=2e-6, atol=2e-6 * scale)

    return check
