"""The standard 3×3 convolution with fewer multiplications, against the reference in float64."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from ninefold import reference
from ninefold.ops.packed import Conv2d

# A share of the range. Stride 1 has factors of up to 8 and its sums cancel; stride 2 only adds.
BOUND = {1: 1e-5, 2: 2e-6}
SIDES = [(1, 1, 1, 1), (0, 0, 0, 0), (0, 1, 0, 1), (5, 2, 0, 3)]


def layers(channels: int, outputs: int, **options: object) -> tuple[Conv2d, Conv2d]:
    """One layer with fewer multiplications, and the same with all of them."""
    torch.manual_seed(0)
    weight, bias = torch.randn(outputs, channels, 3, 3) / channels**0.5, torch.randn(outputs)
    fewer, all_of_them = (Conv2d(weight, bias, winograd=yes, **options) for yes in (True, False))
    return fewer, all_of_them


def error(got: torch.Tensor, layer: Conv2d, x: torch.Tensor) -> float:
    """The largest difference from the reference, as a share of its range."""
    padded = torch.nn.functional.pad(x.double(), layer.padding)
    bias, options = layer.bias.double(), {"stride": layer.stride, "activation": layer.activation}
    want = reference.conv2d(padded, layer.weight.double(), bias, **options)
    assert got.shape == want.shape
    want = torch.as_tensor(want)
    return float((got.double() - want).abs().max() / (want.max() - want.min()))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", SIDES, ids=str)
@pytest.mark.parametrize("size", [(24, 24), (21, 27), (23, 18), (26, 37)], ids=str)
def test_is_near_the_reference_and_not_the_direct_sum(isa, threads, size, padding, stride):
    fewer, direct = layers(40, 56, stride=(stride, stride), padding=padding)
    x = torch.randn(2, 40, *(stride * each + 1 for each in size))
    got = fewer(x)
    assert error(got, fewer, x) < BOUND[stride]
    assert isa == "fallback" or not torch.equal(got, direct(x)), "all multiplications were made"


@pytest.mark.parametrize("stride", [1, 2])
def test_every_activation(isa, activation, stride):
    fewer, _ = layers(32, 32, stride=(stride, stride), padding=(1, 1, 1, 1), activation=activation)
    x = torch.randn(1, 32, 33, 30)
    assert error(fewer(x), fewer, x) < BOUND[stride]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "outputs"), [(16, 16), (17, 31), (33, 100), (64, 48)])
def test_channel_tails(isa, channels, outputs, stride):
    fewer, _ = layers(channels, outputs, stride=(stride, stride), padding=(1, 1, 1, 1))
    x = torch.randn(1, channels, 40, 43)
    assert error(fewer(x), fewer, x) < BOUND[stride]


@pytest.mark.parametrize(("size", "stride"), [(20, 1), (42, 2)])
def test_weights_that_no_cache_holds_are_shared_by_the_threads(isa, threads, size, stride):
    fewer, direct = layers(192, 224, stride=(stride, stride), padding=(1, 1, 1, 1), activation="relu")
    x = torch.randn(1, 192, size, size)
    assert error(fewer(x), fewer, x) < BOUND[stride]
    assert isa == "fallback" or not torch.equal(fewer(x), direct(x))


def test_a_result_is_the_same_on_any_number_of_threads_and_in_any_batch(isa, threads):
    fewer, _ = layers(32, 48, padding=(1, 1, 1, 1))
    x = torch.randn(5, 32, 30, 30)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)  # which `threads` sets back
        results += [fewer(x), torch.cat([fewer(image[None]) for image in x])]
    # PyTorch's own sums depend on the batch.
    same = torch.allclose if isa == "fallback" else torch.equal
    assert all(same(each, results[0]) for each in results)


@pytest.mark.parametrize("size", [(3, 3), (1, 5), (2, 2)], ids=str)
def test_small_images_take_all_multiplications(isa, size):
    fewer, direct = layers(32, 32, padding=(1, 1, 1, 1))
    x = torch.randn(1, 32, *size)
    assert torch.equal(fewer(x), direct(x))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_number_without_end_reaches_no_further_than_its_tiles(isa, number, stride):
    fewer, direct = layers(32, 32, stride=(stride, stride), padding=(1, 1, 1, 1))
    x = torch.randn(1, 32, 40, 40)
    x[0, 3, 20, 20] = number
    got, want = fewer(x), direct(x)
    reached = ~want.isfinite()
    assert reached.any() and not got[reached].isfinite().any()
    across = torch.nn.functional.max_pool2d(reached.float(), 7, stride=1, padding=3) > 0
    assert torch.allclose(got[~across], want[~across], atol=1e-4)


def test_copies_and_saved_layers_do_the_same():
    fewer, _ = layers(32, 32, padding=(1, 1, 1, 1))
    x = torch.randn(1, 32, 24, 24)
    want = fewer(x)
    for other in (copy.deepcopy(fewer), pickle.loads(pickle.dumps(fewer))):
        assert torch.equal(other(x), want)
    older = pickle.loads(pickle.dumps(fewer))
    del older.__dict__["winograd"]
    assert torch.allclose(older(x), want, atol=1e-4)
