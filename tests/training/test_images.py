"""The memory of images: kept for the next, given back when asked or forgotten, never shared."""

from __future__ import annotations

import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

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


def test_memory_comes_again_for_the_same_size_or_less() -> None:
    assert not marked(*SHAPE)
    assert marked(*SHAPE)
    assert marked(2, 8, 1024, 24)
    assert marked(*SHAPE)
    assert not marked(2, 8, 1024, 1024)


def test_what_goes_joins_what_is_free_beside_it() -> None:
    images = [passes._image(*SHAPE) for _ in range(5)]
    places = [image.data_ptr() for image in images]
    assert places == sorted(set(places))
    for index in (1, 3, 2):
        images[index] = None
    between = passes._image(6, 8, 1024, 640)
    assert between.data_ptr() == places[1]
    assert between.data_ptr() + 3 * images[0].nbytes <= places[4]


def test_a_gap_is_filled_before_new_memory_is_taken() -> None:
    first, second = passes._image(*SHAPE), passes._image(*SHAPE)
    place = first.data_ptr()
    del first
    halves = [passes._image(1, *SHAPE[1:]) for _ in range(2)]
    assert [half.data_ptr() - place for half in halves] == [0, halves[0].nbytes]
    assert passes._image(*SHAPE).data_ptr() > second.data_ptr()


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


def test_what_is_kept_goes_with_the_model_that_trained() -> None:
    model = for_training(SeparableBlock(16, 16, 3))
    model(torch.randn(2, 16, 8, 8)).sum().backward()
    assert not marked(*SHAPE)
    assert marked(*SHAPE)
    del model
    gc.collect()
    assert not marked(*SHAPE)


def test_what_is_not_reached_for_a_while_goes() -> None:
    large, small = (8, 8, 1024, 640), (2, 8, 1024, 64)
    assert not marked(*large)
    for _ in range(20):
        marked(*small)
    assert marked(*large)
    for _ in range(2 * 16 * 40 + 1):  # twice sixteen times the large one, which is 40 small ones
        passes._image(*small)
    assert not marked(*large)


def test_an_image_that_is_held_while_others_are_released_stays() -> None:
    below = passes._image(16, 8, 1024, 640)
    held = passes._image(*SHAPE).fill_(5)
    del below
    passes.release_images()
    for _ in range(16 * 100):  # more than sixteen times all that is there, none of it beyond the held one
        passes._image(2, 8, 1024, 64)
    assert bool((held == 5).all())


def test_images_of_several_threads_are_each_threads_own() -> None:
    def work(number: int) -> bool:
        random = torch.Generator().manual_seed(number)
        held: list[tuple[torch.Tensor, int]] = []
        right = True
        for turn in range(200):
            height = int(torch.randint(64, 1024, (), generator=random))
            held.append((passes._image(1, 8, height, 64).fill_(1000 * number + turn), 1000 * number + turn))
            if len(held) > 5:
                image, value = held.pop(int(torch.randint(5, (), generator=random)))
                right = right and bool((image == value).all())
        return right and all(bool((image == value).all()) for image, value in held)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_where_addresses_are_limited_each_image_has_memory_of_its_own() -> None:
    resource = pytest.importorskip("resource", reason="no limits on this system")
    script = """
import torch
from ninefold.ops import passes
first, second = passes._image(2, 8, 1024, 640).fill_(1), passes._image(2, 8, 1024, 640).fill_(2)
assert float(first.max()) == 1
try:
    passes._image(64, 64, 4096, 4096)
except MemoryError:
    print("refused")
"""
    least = 64 << 30

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (least, least))

    done = subprocess.run(
        [sys.executable, "-c", script], preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "refused\n", "")


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
    again = gradients()
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert all(a.stride() == b.stride() and b._base is None for a, b in zip(plain, again, strict=True))
