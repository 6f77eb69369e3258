"""Chains in Triton's kernels: what the CPU's chains compute, against PyTorch in float64 and in float32."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import ninefold
from ninefold.gpu import planner
from ninefold.training import chain
from ninefold.training.chain import Normalisation, Stage

BATCH, RUNNING = Normalisation(1e-5, True), Normalisation(1e-3, False)
POINT = ((1, 1), (0, 0, 0, 0), (1, 1), 1)
TOLERANCE = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)
    torch._dynamo.reset()


def layer(kind, inputs, outputs, activation, normalisation=BATCH, *, bias=False, kernel=3, stride=1):
    """A stage and its tensors, float32."""
    groups = inputs if kind == "depthwise" else 1
    size = (outputs, inputs // groups, *((1, 1) if kind == "pointwise" else (kernel, kernel)))
    around = (0, 1, 0, 1) if stride == 2 else (kernel // 2,) * 4
    geometry = POINT if kind == "pointwise" else ((stride, stride), around, (1, 1), groups)
    weight = torch.randn(size) / (size[1] * size[2] * size[3]) ** 0.5
    norm = (None,) * 4
    if normalisation:
        norm = (torch.rand(outputs) + 0.5, torch.randn(outputs) * 0.3, torch.randn(outputs) * 0.1)
        norm = (*norm, torch.rand(outputs) + 0.5)
    own = (weight, torch.randn(outputs) if bias else None, *norm)
    return Stage(kind, *geometry, normalisation, activation), own


def held(device, x, layers, residual=None, *, dtype=torch.float32, keep="float32"):
    """Run a chain both ways; hold output, statistics and every gradient to float64."""
    stages = [stage for stage, _ in layers]
    named = {"x": x, "residual": residual}
    named |= {(i, j): tensor for i, (_, own) in enumerate(layers) for j, tensor in enumerate(own)}
    ours, exact = {}, {}
    for name, tensor in named.items():
        if tensor is None:
            ours[name] = exact[name] = None
            continue
        # Images and weights are of the dtype; batch-norm's numbers stay float32, as under autocast.
        image = name in ("x", "residual") or name[1] < 2
        ours[name] = tensor.to(device=device, dtype=dtype if image else torch.float32)
        exact[name] = ours[name].double().cpu()
    leaves = [name for name, t in ours.items() if t is not None and (isinstance(name, str) or name[1] < 4)]

    def run(tensors, function):
        for name in leaves:
            tensors[name].requires_grad_()
        rows = [tuple(tensors[i, j] for j in range(6)) for i in range(len(stages))]
        out, found = function(tensors["x"], stages, rows, tensors["residual"])
        return out, found, [tensors[name] for name in leaves]

    out, found, mine = run(ours, lambda *given: chain.run(*given, keep=keep))
    assert out.dtype is dtype and out.is_contiguous(memory_format=torch.channels_last)
    arriving = torch.randn(out.shape).to(out)
    got = torch.autograd.grad(out, mine, arriving)
    wanted, statistics, theirs = run(exact, chain._plain)
    right = torch.autograd.grad(wanted, theirs, arriving.double().cpu())
    tolerance = TOLERANCE[dtype]
    near(out, wanted, tolerance)
    for one, other in zip(found, statistics, strict=True):
        for mean, true in zip(one, other, strict=True):
            near(mean, true, tolerance)
    largest = max(float(gradient.abs().max()) for gradient in right)
    for name, one, other in zip(leaves, got, right, strict=True):
        assert one.dtype is ours[name].dtype
        scale = max(float(other.abs().max()), 0.05 * largest)
        assert float((one.double().cpu() - other).abs().max()) <= tolerance * scale, name


def near(got, want, tolerance):
    assert got.shape == want.shape
    if want.numel():
        away = (got.detach().double().cpu() - want.detach()).abs().max()
        assert float(away) <= tolerance * max(1, float(want.detach().abs().max()))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("stride", [1, 2])
def test_an_inverted_residual(device, dtype, stride):
    layers = [
        layer("pointwise", 9, 24, "relu6"),
        layer("depthwise", 24, 24, "relu6", stride=stride),
        layer("pointwise", 24, 9, None),
    ]
    residual = torch.randn(2, 9, 7, 6) if stride == 1 else None
    held(device, torch.randn(2, 9, 7, 6), layers, residual, dtype=dtype)


@pytest.mark.parametrize(
    "wanted",
    [
        ("as it arrives",),
        ("moments apart", "sums apart"),
        ("turned first", "applied first"),
        ("turned first", "applied first", "pytorch"),
    ],
)
def test_every_way_of_a_pass(device, monkeypatch, wanted):
    taken = []

    def choose(task, ways, like):
        named = (name for words in wanted for name in ways if words in name)
        taken.append(next(named, next(iter(ways))))
        return taken[-1]

    monkeypatch.setattr(planner, "choose", choose)
    layers = [
        layer("pointwise", 9, 24, "silu"),
        layer("depthwise", 24, 24, "relu6"),
        layer("pointwise", 24, 9, None),
    ]
    held(device, torch.randn(2, 9, 7, 6), layers)
    assert all(sum(words in name for name in taken) > 1 for words in wanted)


@pytest.mark.parametrize("activation", ["relu", "silu", "hardswish", "gelu", "gelu_tanh", "sigmoid", None])
def test_every_activation_both_ways(device, activation):
    layers = [layer("depthwise", 16, 16, activation), layer("pointwise", 16, 12, activation)]
    held(device, torch.randn(2, 16, 5, 5), layers)


@pytest.mark.parametrize(("normalisation", "bias"), [(RUNNING, True), (None, True), (None, False)])
def test_without_batch_statistics(device, normalisation, bias):
    layers = [
        layer("standard", 3, 16, "relu", normalisation, bias=bias, stride=2),
        layer("depthwise", 16, 16, "hardsigmoid", normalisation, bias=bias, kernel=5),
        layer("pointwise", 16, 8, "relu6", normalisation, bias=bias),
    ]
    held(device, torch.randn(2, 3, 9, 9), layers)


def test_a_standard_convolution_inside(device):
    layers = [
        layer("pointwise", 8, 16, "silu"),
        layer("standard", 16, 8, "relu"),
        layer("depthwise", 8, 8, None, kernel=7),
    ]
    held(device, torch.randn(2, 8, 7, 7), layers, dtype=torch.float16)


def test_kept_in_half_the_memory(device):
    layers = [layer("depthwise", 16, 16, "relu"), layer("pointwise", 16, 8, None)]
    stages, rows = zip(*layers, strict=True)
    x = torch.randn(2, 16, 6, 6, device=device, requires_grad=True)
    rows = [tuple(None if t is None else t.to(device) for t in row) for row in rows]
    out, _ = chain.run(x, stages, rows, keep="bfloat16")
    kept = [t for t in out.grad_fn.saved_tensors if t is not None and t.dim() == 4 and t.shape[2] == 6]
    assert [t.dtype for t in kept] == [torch.float32, torch.bfloat16, torch.bfloat16]
    out.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_numbers_that_lie_apart(device):
    layers = [
        layer("depthwise", 16, 16, "relu", bias=True),
        layer("pointwise", 16, 8, None, RUNNING, bias=True),
    ]
    stages, rows = zip(*layers, strict=True)
    rows = [tuple(t.to(device) for t in row) for row in rows]
    apart = [tuple(t if t.dim() == 4 else torch.stack([t, t * 9], 1)[:, 0] for t in row) for row in rows]
    x = torch.randn(2, 16, 5, 5, device=device)
    ours, wanted = (chain.run(x, stages, given)[0] for given in (apart, rows))
    torch.testing.assert_close(ours, wanted)


def test_nan_passes(device):
    layers = [layer("depthwise", 8, 8, "relu6"), layer("pointwise", 8, 8, "relu")]
    stages, rows = zip(*layers, strict=True)
    rows = [tuple(None if t is None else t.to(device) for t in row) for row in rows]
    x = torch.randn(2, 8, 4, 4, device=device)
    x[1, 3, 2, 2] = torch.nan
    out, found = chain.run(x, stages, rows)
    assert torch.isnan(found[0][0][3]) and torch.isnan(found[0][1][3])
    assert int(torch.isnan(found[0][0]).sum()) == 1 and torch.isnan(out).all()


class Network(nn.Module):
    """A stem, an inverted residual with an addition, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.body = nn.Sequential(
            *(nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6()),
            *(nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24), nn.ReLU6()),
            *(nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8)),
        )
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.classifier((x + self.body(x)).mean((2, 3)))


@pytest.mark.parametrize("how", ["float32", "bfloat16", "autocast"])
def test_training_and_evaluation_of_a_network(device, how, launched):
    model, x = Network().to(device), torch.randn(2, 3, 8, 8, device=device)
    if how == "bfloat16":
        model, x = model.to(torch.bfloat16), x.to(torch.bfloat16)
    tolerance = 1e-4 if how == "float32" else 6e-2
    plain = copy.deepcopy(model)
    fast = ninefold.for_training(model)
    states = []
    for net in (fast, plain):
        optimiser = torch.optim.SGD(net.parameters(), 0.05)
        for _ in range(1 + (how == "float32")):
            with torch.autocast(device, torch.bfloat16, enabled=how == "autocast"):
                out = net(x)
            optimiser.zero_grad()
            out.float().square().mean().backward()
            optimiser.step()
        states.append({"out": out.detach(), **net.state_dict()})
    assert "depthwise_kernel" in launched and "depthwise_weight_kernel" in launched
    assert ninefold.training.summary(model).startswith("4 of 4 convolutions train in 2 fused chains")
    for name, want in states[1].items():
        got = states[0][name]
        assert got.dtype is want.dtype, name
        scale = max(1.0, float(want.abs().max()))
        assert float((got.double() - want.double()).abs().max()) <= tolerance * scale, name
    launched.clear()
    model.eval(), plain.eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=how == "autocast"):
        got, want = fast(x), plain(x)
    assert "separable_kernel" in launched and "moments_kernel" not in launched
    assert got.dtype is want.dtype
    assert float((got - want).abs().max()) <= tolerance * max(1.0, float(want.abs().max()))
