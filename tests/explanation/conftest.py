"""Layers that are easy, hard, wide and degenerate."""

from __future__ import annotations

import pytest

from ninefold.explanation import Layer

LAYERS = {
    "example": Layer(512, 1024, 3, 14),
    "first": Layer(32, 64, 3, 112),
    "kernel-over-image": Layer(3, 16, 7, 5),
    "ones": Layer(1, 1, 1, 1),
    "multiplier": Layer(16, 32, 3, 28, multiplier=2),
    "stride": Layer(64, 128, 5, 56, stride=2, padding=2),
    "few": Layer(2, 3, 5, 8, padding="valid"),
    "wide": Layer(24, 8, 3, 28, multiplier=16),
    "largest": Layer(16384, 16384, 31, 1024, stride=16, multiplier=16),
}


@pytest.fixture
def layers() -> dict[str, Layer]:
    """Layers by what is hard about them."""
    return LAYERS
