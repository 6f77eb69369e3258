"""SeparableBlock is its six PyTorch layers, in training and in eval, with what they leave behind."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from ninefold import nn, ops
from ninefold.training import chain


def twin_of(block):
    """The block's layers in PyTorch, sharing nothing with it."""
    first, last = block.depthwise, block.pointwise
    channels = first.in_channels
    depthwise = torch.nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,
        first.stride,
        first.padding,
        first.dilation,
        channels,
        bias=False,
    )
    pointwise = torch.nn.Conv2d(last.in_channels, last.out_channels, 1, bias=False)
    depthwise.load_state_dict(first.state_dict())
    pointwise.load_state_dict(last.state_dict())
    parts = [
        depthwise,
        block.depthwise_norm,
        torch.nn.ReLU(),
        pointwise,
        block.pointwise_norm,
        torch.nn.ReLU(),
    ]
    return torch.nn.Sequential(*copy.deepcopy(parts))


def paired(block, twin):
    names = {"depthwise": "0", "depthwise_norm": "1", "pointwise": "3", "pointwise_norm": "4"}
    theirs = twin.state_dict()
    for name, tensor in block.state_dict().items():
        part, _, rest = name.partition(".")
        yield name, tensor, theirs[f"{names[part]}.{rest}"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"multiplier": 2, "dilation": 2, "padding": 2},
        {"padding": "same"},
        {"momentum": None, "eps": 0.01},
        {"residual": True, "padding": 1},
    ],
)
def test_training_and_evaluation_are_pytorchs(options):
    torch.manual_seed(0)
    block = nn.SeparableBlock(8, 8, 3, **options)
    twin = twin_of(block)

    def plain(x):
        return twin(x) + x if options.get("residual") else twin(x)

    optimisers = [torch.optim.SGD(net.parameters(), 0.1, momentum=0.9) for net in (block, twin)]
    for _ in range(3):
        x = torch.randn(3, 8, 9, 9)
        for run, optimiser in zip((block, plain), optimisers, strict=True):
            optimiser.zero_grad()
            run(x).square().mean().backward()
            optimiser.step()
    for name, ours, theirs in paired(block, twin):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5, msg=name)
    block.eval(), twin.eval()
    torch.testing.assert_close(block(x), plain(x), rtol=2e-5, atol=2e-5)
    with torch.no_grad():
        torch.testing.assert_close(block(x), plain(x), rtol=2e-5, atol=2e-5)


def test_who_computes(monkeypatch):
    called = []
    run, fold = chain.run, ops.separable_conv2d
    monkeypatch.setattr(chain, "run", lambda *a, **k: called.append("chain") or run(*a, **k))
    monkeypatch.setattr(ops, "separable_conv2d", lambda *a, **k: called.append("fold") or fold(*a, **k))
    block, x = nn.SeparableBlock(8, 12, 3), torch.randn(2, 8, 9, 9)
    block(x)
    block.eval()(x)
    with torch.no_grad():
        block(x)
        block.train()(x)
    assert called == ["chain", "chain", "fold", "chain"]


def test_the_state_dict_says_what_each_part_is():
    names = ["depthwise.weight", "depthwise_norm.weight", "depthwise_norm.bias"]
    assert [name for name in nn.SeparableBlock(4, 6, 3).state_dict()][:3] == names
    block = nn.SeparableBlock(4, 6, 3, depthwise_activation="silu", activation=None, stride=2)
    assert repr(block).startswith("SeparableBlock(\n  depthwise_activation='silu', activation=None\n")


def test_copies_and_pickles():
    block, x = nn.SeparableBlock(8, 8, 3, padding=1, residual=True), torch.randn(2, 8, 6, 6)
    block(x)
    block.eval()
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        torch.testing.assert_close(other(x), block(x))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_format_of_the_image_is_the_results(memory_format):
    x = torch.randn(2, 8, 9, 9).contiguous(memory_format=memory_format)
    assert nn.SeparableBlock(8, 8, 3)(x).is_contiguous(memory_format=memory_format)


def test_a_compiler_sees_plain_operators():
    block, x = nn.SeparableBlock(8, 8, 3, padding="same_upper", stride=2), torch.randn(2, 8, 9, 9)
    twin = copy.deepcopy(block)
    torch._dynamo.reset()
    fast = torch.compile(block, backend="eager", fullgraph=True)
    torch.testing.assert_close(fast(x), twin(x), rtol=1e-5, atol=1e-5)
    assert block.depthwise_norm.num_batches_tracked == 1
    torch._dynamo.reset()


def test_other_dtypes_and_autocast():
    block, x = nn.SeparableBlock(8, 8, 3, dtype=torch.float64), torch.randn(2, 8, 9, 9)
    assert block(x.double()).dtype is torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert nn.SeparableBlock(8, 8, 3)(x).dtype is torch.bfloat16


def test_errors():
    with pytest.raises(ValueError, match=r"`depthwise_activation` must be one of .*, got 'tanh'"):
        nn.SeparableBlock(8, 8, 3, depthwise_activation="tanh")
    words = (
        r"`residual` must be False where the image changes, got True with 8 → 9 channels and stride \(1, 1\)"
    )
    with pytest.raises(ValueError, match=words):
        nn.SeparableBlock(8, 9, 3, residual=True)
    with pytest.raises(ValueError, match="more than 1 value per channel when training"):
        nn.SeparableBlock(8, 8, 3)(torch.randn(1, 8, 3, 3))
    with pytest.raises(ValueError, match="`weight` must have a multiple of the 7 channels"):
        nn.SeparableBlock(8, 8, 3)(torch.randn(1, 7, 5, 5))
