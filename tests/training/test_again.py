"""Depthwise outputs that are made again: the same bits, fewer bytes, none held longer than it is needed."""

from __future__ import annotations

import gc
import math

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from ninefold.ops import passes
from ninefold.training import again, at_once, by_stage, chain
from ninefold.training.chain import Normalisation, Stage

BATCH, RUNNING = Normalisation(1e-5, True), Normalisation(1e-5, False)
SIZE = 9


@pytest.fixture(autouse=True)
def _kernels():
    if not passes.cpu.available():
        pytest.skip("the compiled kernels are not installed")
    torch.manual_seed(5)


@pytest.fixture
def always(monkeypatch):
    """Every depthwise output that may be is made again, however long that takes."""
    allow(monkeypatch, math.inf)


@pytest.fixture(autouse=True)
def _forgotten():
    yield
    at_once._plan.cache_clear()


def allow(monkeypatch, most):
    """Let that share of the products' time go into outputs that are made again."""
    monkeypatch.setattr(again, "MOST", most)
    at_once._plan.cache_clear()


@pytest.fixture
def stage_by_stage(monkeypatch):
    """No chain in one call."""
    monkeypatch.setattr(at_once, "possible", lambda *_: False)


def norm(channels, normalisation=BATCH):
    if normalisation is None:
        return (None,) * 4
    numbers = torch.rand(channels) + 0.5, torch.randn(channels) * 0.3
    return *(t.requires_grad_() for t in numbers), torch.randn(channels) * 0.1, torch.rand(channels) + 0.5


def depthwise(channels, kernel=3, stride=1, dilation=1, activation=None, normalisation=BATCH, bias=False):
    weight = (torch.randn(channels, 1, kernel, kernel) / kernel).requires_grad_()
    around = (dilation * (kernel // 2),) * 4
    stage = Stage("depthwise", (stride,) * 2, around, (dilation,) * 2, channels, normalisation, activation)
    shift = torch.randn(channels).requires_grad_() if bias else None
    return stage, (weight, shift, *norm(channels, normalisation))


def pointwise(inputs, outputs, activation="relu", normalisation=BATCH):
    weight = (torch.randn(outputs, inputs, 1, 1) / inputs**0.5).requires_grad_()
    stage = Stage("pointwise", (1, 1), (0,) * 4, (1, 1), 1, normalisation, activation)
    return stage, (weight, None, *norm(outputs, normalisation))


def block(**options):
    """Two separable convolutions, 12 → 20 → 16 channels."""
    return [depthwise(12, **options), pointwise(12, 20), depthwise(20, **options), pointwise(20, 16, None)]


def image():
    return torch.randn(2, 12, SIZE, SIZE).contiguous(memory_format=torch.channels_last).requires_grad_()


def call(x, layers, **named):
    stages, tensors = zip(*layers, strict=True)
    return chain.run(x, stages, tensors, **named)[0]


def gradients(x, layers, **named):
    """Of all that needs one, in order; the gradient that arrives is the same at each call."""
    out = call(x, layers, **named)
    leaves = [t for _, row in layers for t in row if t is not None and t.requires_grad]
    arriving = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad(out, [x, *leaves], arriving)


def saved(x, layers, **named):
    """The channels of the images that a call keeps, each memory once."""
    found = {}

    def pack(tensor):
        if tensor.dim() == 4 and tensor.shape[2] > 3:
            found[tensor.data_ptr()] = tensor.shape[1]
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call(x, layers, **named)
    return sorted(found.values())


@pytest.mark.parametrize(
    ("kernel", "stride", "outputs", "expected"),
    [
        *((3, 1, 728, True), (3, 1, 534, True), (3, 1, 512, False), (3, 1, 256, False), (3, 1, 96, False)),
        *((3, 2, 1024, False), (3, 2, 1536, True), (5, 1, 1024, False), (5, 1, 1152, True)),
    ],
)
def test_only_what_is_cheap_beside_the_products_is_made_again(kernel, stride, outputs, expected):
    layers = [depthwise(8, kernel, stride), pointwise(8, outputs)]
    stages, tensors = zip(*layers, strict=True)
    assert again.chosen(stages, [weight.shape for weight, *_ in tensors]) == (expected, False)
    assert by_stage._made_again(image(), stages, tensors, rounded=False) == (expected, False)
    elsewhere = torch.empty(1, 8, 4, 4, device="meta")
    assert by_stage._made_again(elsewhere, stages, tensors, rounded=False) == (False, False)


def test_what_no_pointwise_convolution_follows_is_kept(always):
    layers = [depthwise(12), depthwise(12), pointwise(12, 12), depthwise(12)]
    stages, tensors = zip(*layers, strict=True)
    assert again.chosen(stages, [weight.shape for weight, *_ in tensors]) == (False, True, False, False)


def test_depthwise_outputs_are_not_kept(monkeypatch):
    assert saved(image(), block()) == [12, 12, 16, 20, 20]  # the image and four outputs
    allow(monkeypatch, math.inf)
    assert saved(image(), block()) == [12, 16, 20]


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"kernel": 5}, {"stride": 2}, {"dilation": 2}, {"bias": True}),
        *({"activation": "relu6"}, {"activation": "silu"}, {"normalisation": RUNNING}),
        {"normalisation": None, "bias": True},
        {"normalisation": None, "activation": "relu"},
    ],
)
@pytest.mark.parametrize("whole", [True, False], ids=["at_once", "stage_by_stage"])
def test_gradients_are_those_of_kept_images_bit_for_bit(monkeypatch, request, isa, threads, options, whole):
    if not whole:
        request.getfixturevalue("stage_by_stage")
    x, layers = image(), block(**options)
    allow(monkeypatch, 0)
    kept = gradients(x, layers)
    filters = []
    forward = passes.depthwise
    monkeypatch.setattr(passes, "depthwise", lambda *given: filters.append(1) or forward(*given))
    allow(monkeypatch, math.inf)
    made = gradients(x, layers)
    assert len(filters) == (0 if isa == "fallback" or whole else 4)  # two forward, two again
    assert all(torch.equal(got, want) for got, want in zip(made, kept, strict=True))


def test_a_chain_in_the_middle_and_a_residual(monkeypatch):
    """What is filtered again may be a pointwise output, activated as it is read."""
    layers = [pointwise(12, 20, "hardswish"), *block()[2:], depthwise(16), pointwise(16, 12)]
    x, residual = image(), image()
    allow(monkeypatch, 0)
    kept = gradients(x, layers, residual=residual)
    allow(monkeypatch, math.inf)
    made = gradients(x, layers, residual=residual)
    assert all(torch.equal(got, want) for got, want in zip(made, kept, strict=True))


def test_images_go_as_the_backward_pass_is_done_with_them(always, stage_by_stage, monkeypatch):
    """Two made again never live at once, and none outlives the chain, with no garbage collected."""
    refs, alive, kept = [], [], []
    forward, backward, combine = passes.depthwise, passes.depthwise_backward, passes.pointwise

    def depthwise_again(*given):
        alive.append(sum(not ref.expired() for ref in refs))
        z = forward(*given)
        refs.append(StorageWeakRef(z.untyped_storage()))
        return z

    def seen(*given):
        alive.append(sum(not ref.expired() for ref in refs))
        return backward(*given)

    def combined(*given):
        z = combine(*given)
        kept.append(StorageWeakRef(z.untyped_storage()))
        return z

    monkeypatch.setattr(passes, "pointwise", combined)
    out = call(image(), block())
    monkeypatch.setattr(passes, "depthwise", depthwise_again)
    monkeypatch.setattr(passes, "depthwise_backward", seen)
    gc.disable()
    try:
        out.sum().backward()
        assert alive == [0, 1, 0, 1]
        del out  # it knows what it was made of
        assert len(kept) == 2 and all(ref.expired() for ref in (*refs, *kept))
    finally:
        gc.enable()


def test_a_graph_that_is_retained_gives_the_same_twice(always):
    x, layers = image(), block()
    out = call(x, layers)
    arriving = torch.randn_like(out)
    leaves = [x, *(row[0] for _, row in layers)]
    once = torch.autograd.grad(out, leaves, arriving, retain_graph=True)
    twice = torch.autograd.grad(out, leaves, arriving)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(out, leaves, arriving)


@pytest.mark.parametrize("what", ["filter", "image"])
def test_what_it_is_made_of_must_not_change_meanwhile(always, what):
    x, layers = image(), block()
    source = x * 1
    out = call(source, layers)
    with torch.no_grad():
        (layers[0][1][0] if what == "filter" else source).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_nothing_is_made_again_that_nobody_needs(always, monkeypatch):
    x, layers = image().detach(), block()
    for _, row in layers:
        for tensor in row:
            if tensor is not None:
                tensor.requires_grad_(False)
    layers[-1][1][3].requires_grad_()
    out = call(x, layers)
    monkeypatch.setattr(passes, "depthwise", lambda *_: pytest.fail("a filter ran"))
    out.sum().backward()
    assert layers[-1][1][3].grad is not None


def test_a_frozen_filter_is_made_again_for_the_weights_behind_it(monkeypatch):
    x, layers = image().detach(), block()
    for _, row in layers[:3]:
        for tensor in row[:4]:
            if tensor is not None:
                tensor.requires_grad_(False)
    weight = layers[-1][1][0]
    found = []
    for most in (0, math.inf):
        allow(monkeypatch, most)
        found.append(torch.autograd.grad(call(x, layers).square().sum(), weight)[0])
    assert torch.equal(*found)


def test_what_is_kept_rounded_is_kept(always):
    """Made of rounded images, differences would be off by more than what they are rounded by."""
    assert saved(image(), block(), keep="bfloat16") == [12, 12, 16, 20, 20]
