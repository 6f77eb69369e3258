"""What each operator is and costs, held against PyTorch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from ninefold import census


def multiplying(model: nn.Module, *inputs: torch.Tensor) -> list[census.Operator]:
    return [each for each in census.take(model, inputs).operators if each.multiplications]


def flops(model: nn.Module, *inputs: torch.Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(*inputs)
    return int(counter.get_total_flops())


CONVOLUTIONS = [
    (nn.Conv1d(6, 9, 3, stride=2, padding=1, groups=3), (2, 6, 17), "grouped"),
    (nn.Conv1d(6, 6, 5, groups=6), (1, 6, 17), "depthwise"),
    (nn.Conv2d(6, 8, (3, 5), dilation=(2, 1)), (2, 6, 15, 11), "standard"),
    (nn.Conv2d(6, 12, 3, groups=6, padding=1), (1, 6, 9, 9), "depthwise"),
    (nn.Conv2d(6, 8, 1, stride=2), (1, 6, 9, 9), "pointwise"),
    (nn.Conv2d(1, 8, 3), (1, 1, 9, 9), "standard"),
    (nn.Conv3d(4, 8, 3, padding=1), (2, 4, 5, 6, 7), "standard"),
    (nn.Conv3d(4, 4, (1, 3, 3), groups=4, dilation=2), (1, 4, 5, 9, 9), "depthwise"),
    (nn.ConvTranspose1d(4, 6, 4, stride=2), (2, 4, 9), "transposed"),
    (
        nn.ConvTranspose2d(8, 4, 3, stride=2, output_padding=1, padding=1, groups=2),
        (1, 8, 7, 5),
        "transposed",
    ),
    (nn.ConvTranspose3d(4, 2, 2, dilation=2), (1, 4, 3, 4, 5), "transposed"),
]


@pytest.mark.parametrize(("layer", "shape", "kind"), CONVOLUTIONS, ids=lambda it: str(it)[:40])
def test_every_convolution_is_counted_as_pytorch_counts_it(layer, shape, kind):
    x = torch.randn(shape)
    (found,) = multiplying(layer, x)
    assert 2 * found.multiplications == flops(layer, x)
    assert found.kind == kind and found.parameters == layer.weight.numel()
    assert found.input_shape == shape and found.output_shape == tuple(layer(x).shape)
    assert found.kernel_size == layer.kernel_size and found.dilation == layer.dilation
    biased = layer.bias.numel() + layer.weight.numel()
    assert found.bytes == 4 * (x.numel() + biased + layer(x).numel())


class Mixed(nn.Module):
    """Linear layers of two and three dimensions, products, attention, and what multiplies nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 24), nn.Linear(8, 5, bias=False)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.first(self.norm(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.last((seen + seen @ (x.transpose(1, 2) @ x)).softmax(-1).mean(1))


def test_attention_is_counted_where_pytorchs_counter_has_no_rule_for_it():
    x = torch.randn(2, 7, 8)
    found = multiplying(Mixed(), x)
    assert [(each.kind, each.multiplications) for each in found] == [
        ("linear", 2 * 7 * 8 * 24),
        ("attention", 2 * 2 * (7 * 7 * 4 + 7 * 7 * 4)),
        ("matrix product", 2 * 8 * 7 * 8),
        ("matrix product", 2 * 7 * 8 * 8),
        ("linear", 2 * 8 * 5),
    ]
    assert [each.name for each in found if each.kind == "linear"] == ["first", "last"]
    attention = found[1].multiplications
    # The CPU's attention is missing from flop_counter's table; when it is there, this says so.
    assert 2 * (sum(each.multiplications for each in found) - attention) == flops(Mixed(), x)


def test_the_rest_is_sorted_by_what_it_does():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    found = census.take(model, (torch.randn(1, 3, 8, 8),)).operators
    kinds = [each.kind for each in found if each.bytes]
    assert [kind for kind in kinds if kind != "copies"] == [
        "standard",
        "normalisation",
        "activation",
        "pooling",
    ]
    named = {each.kind: each.name for each in found}
    assert named["normalisation"] == "1" and named["activation"] == "2"
    views = [each for each in found if each.operator == "view"]
    assert views and all(each.bytes == 0 for each in views)


def test_a_layer_of_the_census_is_found_among_the_operators():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1))
    counted = census.take(model, (torch.randn(1, 3, 8, 8),))
    for each in counted.operators:
        if each.layer is not None:
            layer = counted.layers[each.layer]
            assert (layer.name, layer.shape.multiplications) == (each.name, each.multiplications)
    assert sum(each.layer is not None for each in counted.operators) == 3
    assert not model[0]._forward_hooks and not model[0]._forward_pre_hooks
