"""Networks with lively statistics, compiled; a count of the kernels that ran; one way to compare."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import ninefold.training
from ninefold.ops import packed, sequence
from ninefold.training import chain


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.manual_seed(7)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Count:
    """How often a kernel, or a stretch of them, was called since `since` last asked."""

    def __init__(self) -> None:
        self.calls = 0

    def since(self) -> int:
        calls, self.calls = self.calls, 0
        return calls


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Count:
    """Count what runs in kernels."""
    count = Count()

    def counted(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            count.calls += 1
            return forward(*args)

        return run

    for layer in (sequence.Sequence, packed.Conv2d, packed.Separable, packed.Inverted):
        monkeypatch.setattr(layer, "forward", counted(layer.forward))
    return count


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> Count:
    """Count the chains that run as one function."""
    count, run = Count(), chain.run

    def counted(*args: Any, **named: Any) -> Any:
        count.calls += 1
        return run(*args, **named)

    monkeypatch.setattr(chain, "run", counted)
    return count


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


class Separable(nn.Module):
    """A stem, two separable blocks with a residual between, and a classifier."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.first = _block(channels)
        self.second = _block(channels)
        self.classifier = nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.first(x)
        return self.classifier(self.second(x).mean((2, 3)))


def _block(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(inplace=True),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


@pytest.fixture
def model() -> nn.Module:
    """A small network in eval mode."""
    return lively(Separable()).eval()


@pytest.fixture
def images() -> torch.Tensor:
    """Two images for it."""
    return torch.randn(2, 3, 12, 12)


@pytest.fixture
def agree() -> Callable[..., Any]:
    """Call both with copies of the inputs; hold values, strides and `requires_grad` to each other."""

    def run(fast: Callable[..., Any], plain: Callable[..., Any], *inputs: Any) -> Any:
        theirs, ours = plain(*_clones(inputs)), fast(*_clones(inputs))
        assert pytree.tree_structure(ours) == pytree.tree_structure(theirs)
        for got, want in zip(pytree.tree_leaves(ours), pytree.tree_leaves(theirs), strict=True):
            if not isinstance(want, torch.Tensor):
                assert got == want
                continue
            assert got.stride() == want.stride()
            assert got.requires_grad == want.requires_grad
            largest = want.abs().max().item() if want.numel() else 0.0
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * max(1, largest))
        return ours

    return run


def _clones(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, inputs)


@pytest.fixture
def compiled() -> Callable[..., Any]:
    """Compile for this backend."""
    return lambda model, **options: torch.compile(model, backend=ninefold.training.backend, **options)


@pytest.fixture
def same_training() -> Callable[..., Any]:
    """Train a model and a copy of it in PyTorch for a few steps; hold everything they have to each other."""

    def train(
        model: nn.Module,
        *inputs: torch.Tensor,
        prepare: Callable[[nn.Module], Any] = ninefold.training.for_training,
        step: Callable[..., torch.Tensor] = _loss,
        steps: int = 3,
        tolerance: float = 2e-5,
    ) -> None:
        plain = copy.deepcopy(model)
        states = []
        for net, run in ((model, prepare(model)), (plain, plain)):
            optimiser = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
            losses = []
            for number in range(steps):
                torch.manual_seed(number)
                optimiser.zero_grad()
                loss = step(run, *_clones(inputs))
                loss.backward()
                losses.append(loss.item())
                optimiser.step()
            buffers = {
                f"{name}.momentum": optimiser.state[parameter].get("momentum_buffer")
                for name, parameter in net.named_parameters()
            }
            states.append({"losses": torch.tensor(losses)} | net.state_dict() | buffers)
        ours, theirs = states
        assert ours.keys() == theirs.keys()
        for name, want in theirs.items():
            got = ours[name]
            assert (got is None) == (want is None), name
            if want is None:
                continue
            assert got.dtype == want.dtype and got.shape == want.shape, name
            scale = max(1.0, want.abs().max().item()) if want.numel() else 1.0
            assert (got - want).abs().max() <= tolerance * scale, name

    return train


def _loss(run: Callable[..., Any], *inputs: torch.Tensor) -> torch.Tensor:
    return run(*inputs).square().mean()
