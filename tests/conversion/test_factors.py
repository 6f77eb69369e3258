"""The decomposition: exact at full terms, off by exactly the singular values it drops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ninefold import convert
from ninefold.conversion.factors import ORDERS, decompose, grouped

SIZES = st.integers(1, 9)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_full_terms_reproduce_any_convolution(data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 1, 2, 3]))
    per_group = data.draw(st.integers(2, 5))
    kernel = data.draw(st.sampled_from([(3, 3), (2, 2), (5, 3), (1, 4), (7, 7)]))
    stride = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    mode = data.draw(st.sampled_from(["zeros", "zeros", "reflect", "circular", "replicate"]))
    layer = nn.Conv2d(
        groups * per_group,
        groups * data.draw(st.integers(1, 6)),
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=data.draw(st.booleans()),
        padding_mode=mode,
    )
    x = torch.randn(2, groups * per_group, 15, 16)
    for order in ORDERS:
        result = convert(nn.Sequential(layer), x, terms=49, order=order, layers=["0"])
        with torch.no_grad():
            got, wanted = result.model(x), layer(x)
        assert got.shape == wanted.shape
        assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_same_padding_is_kept() -> None:
    layer = nn.Conv2d(4, 6, (3, 4), padding="same")
    x = torch.randn(1, 4, 9, 10)
    result = convert(nn.Sequential(layer), x, terms=12, layers=["0"])
    assert torch.allclose(result.model(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("first", ORDERS)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_residual_is_the_energy_of_the_dropped_singular_values(first: str, groups: int) -> None:
    weight = grouped(torch.randn(8, 6 // groups, 3, 3), groups)
    values = np.linalg.svd(weight.transpose(1, 2) if first == "depthwise" else weight, compute_uv=False)
    for terms in range(1, values.shape[-1] + 1):
        residual = weight - decompose(weight, terms, first=first).weight()
        dropped = np.square(values[..., terms:]).sum()
        assert float(residual.square().sum()) == pytest.approx(dropped, rel=1e-10, abs=1e-18)


@pytest.mark.parametrize("first", ORDERS)
def test_a_separable_layer_is_found_again_with_one_term(first: str) -> None:
    if first == "depthwise":
        weight = torch.randn(1, 8, 6, 1) * torch.randn(1, 1, 6, 9)
    else:
        weight = torch.randn(1, 8, 6, 1) * torch.randn(1, 8, 1, 9)
    found = decompose(weight.double(), 1, first=first)
    assert torch.allclose(found.weight(), weight.double(), atol=1e-12)
