"""Chains in one call each way: to the bit what stage by stage gives, and what else such a call must keep."""

from __future__ import annotations

import pytest
import torch

from ninefold.ops import passes, whole
from ninefold.ops.operands import Gradient, Operand
from ninefold.training import at_once, chain
from ninefold.training.chain import Normalisation, Stage

BATCH, RUNNING = Normalisation(1e-5, True), Normalisation(1e-5, False)


@pytest.fixture(autouse=True)
def _kernels(isa: str) -> None:
    """Every test here runs on each instruction set, and on PyTorch's own operators."""
    torch.manual_seed(5)


@pytest.fixture
def narrow(monkeypatch):
    """Standard convolutions in kernels however few columns there are."""
    monkeypatch.setattr(whole, "FEWEST_COLUMNS", 1)


def layer(kind, inputs, outputs, kernel=1, stride=1, activation="relu6", norm=BATCH, bias=False, ahead=None):
    """A stage and its tensors."""
    groups, around = inputs if kind == "depthwise" else 1, (kernel // 2,) * 4
    weight = torch.randn(outputs, inputs // groups, kernel, kernel) / (inputs // groups * kernel**2) ** 0.5
    stage = Stage(kind, (stride,) * 2, around, (1, 1), groups, norm, activation, ahead)
    numbers = [torch.rand(outputs) + 0.5 for _ in range(4)] if norm else [None] * 4
    return stage, (weight, torch.randn(outputs) if bias else None, *numbers)


def depthwise(channels, kernel=3, stride=1, *given, **named):
    return layer("depthwise", channels, channels, kernel, stride, *given, **named)


def pointwise(inputs, outputs, *given, **named):
    return layer("pointwise", inputs, outputs, 1, 1, *given, **named)


def standard(inputs, outputs, kernel=3, stride=1, *given, **named):
    return layer("standard", inputs, outputs, kernel, stride, *given, **named)


def taken(x, layers, residual=None, momenta=None, frozen=()):
    """A chain's output, what it found, its gradients, and its running statistics afterwards."""
    stages, tensors = zip(*layers, strict=True)
    tensors = [tuple(None if t is None else t.clone() for t in row) for row in tensors]
    x = x.clone()
    leaves = {"x": x, **{f"{k}.{i}": t for i, row in enumerate(tensors) for k, t in enumerate(row[:4])}}
    leaves = {name: t.requires_grad_() for name, t in leaves.items() if t is not None and name not in frozen}
    if residual is not None:
        residual = leaves["residual"] = residual.clone().requires_grad_()
    out, found = chain.run(x, stages, tensors, residual, momenta=momenta)
    torch.manual_seed(1)
    arriving = torch.randn_like(out)
    gradients = torch.autograd.grad(out, leaves.values(), arriving, allow_unused=True)
    running = [t for row in tensors for t in row[4:]]
    return [out.detach(), *(t for pair in found for t in pair), *gradients, *running]


def image(layers, height, width):
    """A batch of two that a chain takes."""
    stage, (weight, *_) = layers[0]
    return torch.randn(2, weight.shape[0] if stage.kind == "depthwise" else weight.shape[1], height, width)


def block(channels, wide):
    return [pointwise(channels, wide), depthwise(wide, 3, 2), pointwise(wide, channels, None)]


CHAINS = {
    "an inverted residual": (block(9, 30), None),
    "a residual": ([depthwise(16, 3), pointwise(16, 16, None)], torch.randn(2, 16, 13, 11)),
    "made again": ([depthwise(8, 3), pointwise(8, 600), depthwise(600, 5), pointwise(600, 1200)], None),
    "an activation ahead": ([depthwise(9, ahead="relu"), pointwise(9, 8, "silu")], None),
    "running statistics": ([pointwise(7, 20, norm=RUNNING), depthwise(20, 3)], None),
    "biases": (
        [
            pointwise(7, 20, bias=True),
            depthwise(20, 3, activation=None, norm=None, bias=True),
            pointwise(20, 8, "hardswish", None, bias=True),
            depthwise(8, 3, norm=RUNNING, bias=True),
            pointwise(8, 8, None, None, bias=True),
        ],
        None,
    ),
    "a standard convolution": ([standard(3, 16, 3, 2), depthwise(16, 3), standard(16, 9, 3)], None),
}


@pytest.mark.parametrize("what", CHAINS)
@pytest.mark.parametrize("momenta", [None, 0.1])
def test_the_same_bits_as_stage_by_stage(what, momenta, threads, narrow, monkeypatch):
    layers, residual = CHAINS[what]
    given = None if momenta is None else [momenta + 0.1 * k for k in range(len(layers))]
    x = image(layers, 13, 11)
    frozen = ("x",) if what == "a standard convolution" else ()
    # PyTorch rounds running statistics twice, and sums a bias's gradient in float32.
    close = {} if momenta or what == "biases" else {"rtol": 0, "atol": 0}
    ours = taken(x, layers, residual, given, frozen)
    monkeypatch.setattr(at_once, "possible", lambda *_: False)
    for got, want in zip(ours, taken(x, layers, residual, given, frozen), strict=True):
        torch.testing.assert_close(got, want, **close)


def test_chains_run_so_wherever_they_can(isa, narrow, monkeypatch):
    calls, run = [], at_once.run
    monkeypatch.setattr(at_once, "run", lambda *given: calls.append(1) or run(*given))
    x = torch.randn(2, 8, 9, 9)
    stem, strided = [standard(8, 8, 3, 2)], [pointwise(8, 8), standard(8, 8, 3, 2)]
    for layers, image, expected in (
        (block(8, 16), x, 1),
        (stem, x, 1),
        (stem, x.clone().requires_grad_(), 0),  # the kernels have no gradient of an input at a stride
        (strided, x, 0),
        ([pointwise(8, 8), standard(8, 8, 1, 2)], x, 0),
    ):
        calls.clear()
        chain.run(image, *zip(*layers, strict=True))
        assert len(calls) == (0 if isa == "fallback" else expected)


@pytest.mark.parametrize("first", [pointwise(16, 24), depthwise(16, 3), depthwise(16, ahead="relu")])
def test_a_residual_that_is_the_image_itself(first, threads):
    layers = [first, pointwise(first[1][0].shape[0], 16, None)]
    (stages, tensors), x = zip(*layers, strict=True), torch.randn(2, 16, 9, 7).requires_grad_()
    out, _ = chain.run(x, stages, tensors, x)
    other, _ = chain.run(x, stages, tensors, x * 1)
    assert torch.equal(out, other)
    arriving = torch.randn_like(out)
    got, want = (torch.autograd.grad(each, x, arriving)[0] for each in (out, other))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("special", [float("nan"), float("inf")])
def test_nan_and_infinity_reach_what_they_reach_in_pytorch(special, narrow):
    for layers in ([standard(3, 8, 3, 2)], [standard(3, 8, 3), pointwise(8, 8)], block(3, 8)):
        x = image(layers, 9, 9)
        x[0, 0, 4, 4] = special
        (stages, tensors), made = zip(*layers, strict=True), []
        for run in (chain.run, lambda x, stages, tensors: chain._plain(x, stages, tensors, None)):
            weight = tensors[0][0].clone().requires_grad_()
            out, _ = run(x.clone(), stages, [(weight, *tensors[0][1:]), *tensors[1:]])
            out.sum().backward()
            made.append((out.isnan(), weight.grad.isnan()))
        for got, want in zip(*made, strict=True):
            assert torch.equal(got, want)


def test_statistics_that_nobody_moves_stay(threads):
    x = torch.randn(2, 8, 9, 9)
    x[0, 0, 0, 0] = float("nan")
    (stages, tensors) = zip(*block(8, 16), strict=True)
    before = [t.clone() for row in tensors for t in row[4:]]
    chain.run(x, stages, tensors)
    for ours, wanted in zip((t for row in tensors for t in row[4:]), before, strict=True):
        assert torch.equal(ours, wanted)


def test_batch_norms_numbers_may_lie_apart(threads):
    layers = block(8, 16)
    spread = [
        (stage, tuple(t if t is None or t.dim() == 4 else torch.stack([t, t * 9], 1)[:, 0] for t in row))
        for stage, row in layers
    ]
    x = torch.randn(2, 8, 9, 9)
    for ours, wanted in zip(taken(x, spread), taken(x, layers), strict=True):
        torch.testing.assert_close(ours, wanted)


def test_the_input_of_a_strided_convolution_has_no_kernel():
    image = torch.randn(1, 8, 9, 9).contiguous(memory_format=torch.channels_last)
    arrived = torch.randn(1, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    given = Gradient(Operand(arrived), arrived), Operand(image), torch.randn(8, 8, 3, 3)
    with pytest.raises(ValueError, match="at a stride has no kernel"):
        passes.conv2d_backward(*given, (2, 2), (0, 0, 0, 0), (1, 1), (True, True))


def test_a_call_needs_the_addresses_of_every_stage():
    one = Stage("pointwise", (1, 1), (0, 0, 0, 0), (1, 1), 1, BATCH, None)
    plan = at_once._plan((one,), ((8, 8, 1, 1),), (8, 4, 4))
    with pytest.raises(ValueError, match="needs 6 addresses, got 5"):
        plan.chain.forward(1, (1, 4, 4, 8), [1] * 5, [0.1], [1], 1, 0, 1, 1)
    with pytest.raises(ValueError, match="a momentum for each stage"):
        plan.chain.forward(1, (1, 4, 4, 8), [1] * 6, [], [1], 1, 0, 1, 1)


def test_what_is_kept_may_come_back_in_another_layout():
    layers, x = block(9, 30), torch.randn(2, 9, 13, 11)
    wanted = taken(x, layers)

    def turned(tensor):
        return tensor.contiguous() if tensor.dim() == 4 else tensor

    with torch.autograd.graph.saved_tensors_hooks(turned, lambda tensor: tensor):
        for got, want in zip(taken(x, layers), wanted, strict=True):
            assert torch.equal(got, want)
