"""A plan's threads stay together: whatever their number, and whoever else calls, the result is the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from ninefold.inference import for_inference
from ninefold.ops import backend

pytestmark = pytest.mark.skipif(backend.kernels() is None, reason="the extension is not built")


class Gated(nn.Module):
    """An inverted residual with a squeeze-and-excitation: loops of every kind that a plan has."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 3, 2, 1)
        self.expand = nn.Conv2d(40, 120, 1)
        self.filter = nn.Conv2d(120, 120, 5, 1, 2, groups=120)
        self.squeeze, self.excite = nn.Conv2d(120, 24, 1), nn.Conv2d(24, 120, 1)
        self.project = nn.Conv2d(120, 40, 1)
        self.head = nn.Linear(40, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Stem, block, mean, linear."""
        x = torch.relu(self.stem(x))
        y = nn.functional.silu(self.filter(nn.functional.silu(self.expand(x))))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.head((x + self.project(y * gate)).mean((2, 3)))


@pytest.fixture
def threads() -> Iterator[None]:
    """PyTorch's number of threads, as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def network() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model, x = Gated().eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        return for_inference(model, (x,)), x, model.double()(x.double()).float()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_any_number_of_threads_computes_the_network(
    network: tuple[nn.Module, Tensor, Tensor], count: int
) -> None:
    fast, x, wanted = network
    torch.set_num_threads(count)
    first = fast(x)
    torch.testing.assert_close(first, wanted, rtol=0, atol=1e-5)
    for _ in range(20):
        assert torch.equal(fast(x), first)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("size", [16, 64])
def test_any_number_of_threads_gives_the_same_bits(
    network: tuple[nn.Module, Tensor, Tensor], size: int
) -> None:
    """At 16 the gated weights are fewer than the image's numbers, and more than those of half of it."""
    fast, x = network[0], torch.randn(1, 3, size, size)
    made = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        made.append(fast(x))
    assert all(torch.equal(each, made[0]) for each in made)


@pytest.mark.usefixtures("threads")
def test_several_callers_have_teams_of_their_own(network: tuple[nn.Module, Tensor, Tensor]) -> None:
    fast, x, _ = network
    torch.set_num_threads(2)
    wanted, wrong = fast(x), []

    def work(caller: int) -> None:
        torch.set_num_threads(2)
        for _ in range(30):
            if not torch.equal(fast(x), wanted):
                wrong.append(caller)

    callers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


@pytest.mark.usefixtures("threads")
def test_the_mean_of_a_large_image_is_shared_by_channels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 72, 1), nn.AdaptiveAvgPool2d(1)).eval()
    x = torch.randn(1, 3, 40, 40)
    fast = for_inference(model, (x,))
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(fast(x))
    assert torch.equal(*results)
