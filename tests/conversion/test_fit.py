"""Moments against the definition, the alternating fit against a dense solver."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from ninefold.conversion import fit as fitting
from ninefold.conversion.factors import ORDERS, Factors, decompose, grouped
from ninefold.conversion.moments import Gathering, Moments


def gathered(layer: nn.Conv2d, x: torch.Tensor, y: torch.Tensor, batch: int = 3) -> Moments:
    gathering = Gathering(layer)
    for x_part, y_part in zip(x.split(batch), y.split(batch), strict=True):
        gathering.add(x_part, y_part)
    return gathering.moments()


@pytest.fixture
def case() -> tuple[nn.Conv2d, Moments]:
    """A layer whose inputs are correlated across channels, and far from zero in the mean."""
    layer = nn.Conv2d(6, 8, 3, padding=1)
    x = functional.conv2d(torch.randn(20, 6, 12, 12), torch.randn(6, 6, 3, 3), padding=1).relu() + 30
    with torch.no_grad():
        return layer, gathered(layer, x, layer(x))


@pytest.mark.parametrize("groups", [1, 2])
def test_moments_are_the_covariances_of_patches_and_outputs(groups: int) -> None:
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=groups)
    x = torch.randn(7, 4, 11, 9) + 100
    y = torch.randn_like(layer(x)) + 50
    moments = gathered(layer, x, y)
    patches = functional.unfold(x.double(), 3, dilation=2, stride=2, padding=1)
    patches = patches.permute(0, 2, 1).reshape(-1, groups, 36 // groups).transpose(0, 1)
    outputs = y.double().flatten(2).permute(0, 2, 1).reshape(-1, groups, 6 // groups).transpose(0, 1)
    for group in range(groups):
        p, o = patches[group] - patches[group].mean(0), outputs[group] - outputs[group].mean(0)
        assert torch.allclose(moments.patches[group], p.T @ p / len(p), rtol=1e-9, atol=1e-8)
        assert torch.allclose(moments.cross[group], o.T @ p / len(p), rtol=1e-9, atol=1e-8)
        assert float(moments.energy[group]) == pytest.approx(float(o.square().sum() / len(o)))


@pytest.mark.parametrize("first", ORDERS)
def test_the_error_said_is_the_error_made(first: str) -> None:
    layer = nn.Conv2d(6, 8, 3, padding=1, bias=False)
    x = torch.randn(10, 6, 9, 9).relu()
    with torch.no_grad():
        y = layer(x)
        moments = gathered(layer, x, y)
        factors = fitting.fit(decompose(grouped(layer.weight, 1), 2, first=first), moments)
        weight = factors.weight().reshape(8, 6, 3, 3).float()
        got = functional.conv2d(x, weight, moments.bias(factors.weight()).float(), padding=1)
    wrong = float((got - y).square().sum() / (y - y.mean((0, 2, 3), keepdim=True)).square().sum())
    assert moments.error(factors.weight()) == pytest.approx(wrong, rel=1e-4)


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("first", ORDERS)
def test_more_rounds_never_err_more_and_beat_the_singular_values(case, first: str, terms: int) -> None:
    layer, moments = case
    start = decompose(grouped(layer.weight, 1), terms, first=first)
    errors = [moments.error(start.weight())]
    errors += [moments.error(fitting.fit(start, moments, rounds=rounds).weight()) for rounds in (1, 2, 4, 12)]
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.7 * errors[0]


def test_conjugate_gradients_find_the_filters_a_dense_solver_finds(case) -> None:
    layer, moments = case
    start = decompose(grouped(layer.weight, 1), 2, first="depthwise")
    square = moments.patches[0].reshape(6, 9, 6, 9)
    wanted = moments.cross[0].reshape(8, 6, 9)
    mixing, before = start.mixing[0], start.filters[0]
    gram = torch.einsum("nmk,nql->mkql", mixing, mixing)
    dense = torch.einsum("mkql,mdqe->mkdqle", gram, square).reshape(108, 108)
    right = torch.einsum("nmk,nmd->mkd", mixing, wanted).reshape(108)
    best = torch.linalg.lstsq(dense, right).solution.reshape(6, 2, 9)
    filters, refitted, _ = fitting._depthwise_first(before, mixing, square, wanted)

    def error(solution: torch.Tensor) -> float:
        return moments.error(Factors("depthwise", solution[None], start.mixing).weight())

    # The round ends with unit filters and a mixing of their own, which can only be better.
    after = Factors("depthwise", filters[None], refitted[None])
    assert moments.error(after.weight()) <= error(best) * (1 + 1e-6) < error(before)


def test_a_target_that_is_separable_is_reached() -> None:
    layer = nn.Conv2d(5, 7, 3)
    true = Factors("depthwise", torch.randn(1, 5, 1, 9).double(), torch.randn(1, 7, 5, 1).double())
    x = torch.randn(30, 5, 10, 10)
    y = functional.conv2d(x, true.weight().reshape(7, 5, 3, 3).float())
    moments = gathered(layer, x, y)
    found = fitting.fit(decompose(grouped(layer.weight, 1), 1, first="depthwise"), moments, rounds=200)
    assert moments.error(found.weight()) < 1e-4
