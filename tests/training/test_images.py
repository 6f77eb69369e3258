"""The memory of large images: kept for the next, given back when asked or forgotten, never shared."""

from __future__ import annotations

import pytest
import torch

from ninefold.nn import SeparableBlock
from ninefold.training import for_training, restore

_kernels = pytest.importorskip("ninefold._kernels", reason="the extension is not built")
passes = pytest.importorskip("ninefold.ops.passes")

SHAPE = 2, 8, 1024, 640  # 42 MB


@pytest.fixture(autouse=True)
def _nothing_kept():
    passes.release_images()
    yield
    passes.release_images()


def marked(*shape: int) -> bool:
    """Whether an image of this shape comes from memory that the one before it marked; marks it."""
    image = passes._image(*shape)
    known = bool((image == 7).all())
    image.fill_(7)
    return known


def test_an_image_is_channels_last_and_nobodys_view() -> None:
    image = passes._image(*SHAPE)
    assert image.shape == SHAPE
    assert image.dtype is torch.float32
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert image._base is None
    assert image.data_ptr() % 64 == 0


def test_memory_comes_again_for_the_same_size_or_a_little_less() -> None:
    assert not marked(*SHAPE)
    assert marked(*SHAPE)
    assert marked(2, 8, 1024, 576)
    assert marked(*SHAPE)  # it has not shrunk
    assert not marked(2, 8, 1024, 1024)
    assert passes._image(*SHAPE).data_ptr() != passes._image(2, 8, 1024, 1024).data_ptr()


def test_two_images_at_a_time_never_share() -> None:
    first, second = passes._image(*SHAPE), passes._image(*SHAPE)
    first.fill_(1)
    second.fill_(2)
    assert float(first.max()) == 1
    del first
    third = passes._image(*SHAPE).fill_(3)
    assert float(second.max()) == 2
    assert float(third.min()) == 3


def test_what_is_kept_goes_when_asked_and_when_a_model_is_restored() -> None:
    marked(*SHAPE)
    passes.release_images()
    assert not marked(*SHAPE)
    restore(torch.nn.Identity())
    assert not marked(*SHAPE)


def test_what_nobody_asks_for_again_goes_after_a_while() -> None:
    marked(*SHAPE)
    for _ in range(66):
        passes._image(4, 8, 1024, 640)
    assert not marked(*SHAPE)


def test_a_step_is_the_same_in_memory_that_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(SeparableBlock(16, 24, 3), SeparableBlock(24, 16, 3, stride=2))
        for_training(model)
        x = torch.randn(2, 16, 32, 32, requires_grad=True)
        for _ in range(3):  # later steps use what earlier ones left
            model.zero_grad()
            x.grad = None
            model(x).square().sum().backward()
        return [x.grad, *(parameter.grad for parameter in model.parameters())]

    plain = gradients()
    monkeypatch.setattr(passes, "LARGE", 0)
    for size in (16, 24):  # what was there before must not matter
        passes._image(2, size, 32, 32).fill_(float("nan"))
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(), strict=True))
