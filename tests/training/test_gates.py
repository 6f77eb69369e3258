"""Squeeze-and-excitation between two chains: PyTorch's numbers, and neither image kept."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ninefold import training
from ninefold.training import gates


class Gated(nn.Module):
    """Expansion, filter, gate, projection, with `multiply` in the gate's place."""

    def __init__(self, multiply=torch.mul, activation=nn.ReLU):
        super().__init__()
        self.multiply = multiply
        self.before = nn.Sequential(
            nn.Conv2d(8, 24, 1, bias=False),
            *(nn.BatchNorm2d(24), activation()),
            nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False),
            *(nn.BatchNorm2d(24), activation()),
        )
        self.squeeze = nn.Sequential(nn.Conv2d(24, 6, 1), nn.ReLU(), nn.Conv2d(6, 24, 1), nn.Hardsigmoid())
        self.after = nn.Sequential(nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8))

    def forward(self, x):
        image = self.before(x)
        gate = self.squeeze(image.mean((2, 3), keepdim=True))
        return x + self.after(self.multiply(image, gate))


def images():
    return torch.randn(3, 8, 9, 9)


def kept(run, *inputs):
    """How many images of 24 channels a step keeps; none of them may be kept twice."""
    found = []

    def pack(tensor):
        if tensor.shape == (3, 24, 9, 9):
            found.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run(*inputs).sum().backward()
    return len(set(found))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.Identity])
@pytest.mark.parametrize(
    "multiply", [torch.mul, lambda x, gate: x * gate, lambda x, gate: gate * x, lambda x, gate: x.mul(gate)]
)
def test_a_gate_trains_as_in_pytorch(same_training, lively, chains, multiply, activation):
    same_training(lively(Gated(multiply, activation)).train(), images())
    assert chains.since() == 6


def test_neither_the_image_nor_the_product_is_kept(lively):
    model = lively(Gated()).train()
    plain = copy.deepcopy(model)
    fast = training.for_training(model)
    fast(images())
    assert kept(fast, images()) == 2  # the two convolutions' raw outputs
    # With them, in PyTorch: what each batch-norm gave, the product.
    assert kept(plain, images()) >= 5


@pytest.mark.parametrize(
    "multiply",
    [
        lambda x, gate: x.add_(1) * gate,
        lambda x, gate: (x * gate).add_(1),
        lambda x, gate: (x * gate) * gate,
        lambda x, gate: x * gate + x,
        lambda x, gate: x * gate.mean(1, keepdim=True),
        lambda x, gate: x * gate.expand_as(x),
        lambda x, gate: F.relu_(x * gate),
    ],
)
def test_what_is_no_gate_or_is_written_to_stays_right(same_training, lively, multiply):
    same_training(lively(Gated(multiply, nn.Hardswish)).train(), images())


@pytest.mark.parametrize("part", ["before", "squeeze", "after"])
def test_frozen_parts(same_training, lively, part):
    model = lively(Gated()).train()
    getattr(model, part).requires_grad_(False)
    same_training(model, images())


def test_gradients_hold_against_float64(lively):
    model = lively(Gated()).train()
    x = images()
    right = Gated().double().train()
    right.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    fast = training.for_training(model)
    fast(x).square().sum().backward()
    right(x.double()).square().sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), right.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_nan_reaches_every_gradient(lively):
    x = images()
    x[0, 0, 0, 0] = float("nan")
    model = lively(Gated()).train()
    plain = copy.deepcopy(model)
    training.for_training(model)(x).square().sum().backward()
    plain(x).square().sum().backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad.isnan(), theirs.grad.isnan())
    assert all(parameter.grad.isnan().any() for parameter in model.before.parameters())


def test_an_origin_is_forgotten_once_the_image_is_written_to():
    image = torch.randn(2, 8, 3, 3, requires_grad=True) * 1
    gates.remember(image, object())
    assert gates.origin(image) is not None
    image.add_(1)
    assert gates.origin(image) is None
    assert gates.origin(torch.zeros(1)) is None
    gates.remember(plain := torch.zeros(2, 8, 3, 3), object())
    assert gates.origin(plain) is None
