"""What a graph may do besides convolving: nothing of it is seen to change."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F


class Around(nn.Module):
    """A separable block with a function around it."""

    def __init__(self, call) -> None:
        super().__init__()
        self.call = call
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.norm = nn.BatchNorm2d(8)
        self.register_buffer("count", torch.zeros(1))
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)

    def forward(self, *inputs):
        return self.call(self, *inputs)


def count_calls(net, x):
    net.count += 1
    return net.block(x) * net.count


def rescale_the_image(net, x):
    x.mul_(2)
    return net.block(x)


def change_a_weight(net, x):
    net.block[2].weight.data.mul_(1.5)
    return net.block(x)


def return_a_view_of_the_image(net, x):
    return net.block(x), x.view(x.shape[0], -1)


def return_a_result_twice(net, x):
    y = net.block(x)
    return y, y.flatten(1)


def drop_out(net, x):
    return F.dropout(net.block(x), 0.5, training=True)


def add_noise(net, x):
    return net.block(x + torch.randn_like(x))


def enter_autocast(net, x):
    with torch.autocast("cpu", torch.bfloat16):
        return net.block(x)


def leave_the_graph(net, x):
    y = net.block(x)
    torch._dynamo.graph_break()
    return net.block(y)


IN_PYTORCH = [
    *(count_calls, rescale_the_image, return_a_view_of_the_image, return_a_result_twice, drop_out, add_noise),
    enter_autocast,
]


@pytest.mark.parametrize(
    "call", [*IN_PYTORCH, change_a_weight, leave_the_graph], ids=lambda call: call.__name__
)
def test_side_effects_and_chance_are_pytorchs(compiled, kernels, call):
    model = Around(call).eval()
    plain = copy.deepcopy(model)
    fast = compiled(model)
    with torch.no_grad():
        for seed in range(3):
            results = []
            for run in (fast, plain):
                image = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(seed))
                torch.manual_seed(seed)
                results.append((image, run(image)))
            (image, ours), (other, theirs) = results
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
            assert torch.equal(image, other)
            if isinstance(ours, tuple):
                ours[1].zero_()
                assert image.eq(0).all() or ours[0].eq(0).all()
    assert torch.equal(model.count, plain.count)
    assert bool(kernels.since()) == (call not in (*IN_PYTORCH, change_a_weight))


def edit_in_place(net, x):
    y = net.block(x)
    y += 1
    y[:, :2].mul_(3)
    return net.block(y).relu_()


def transposed(net, x):
    return net.block(x).permute(0, 2, 3, 1)


def tokens(net, x):
    return net.block(x).flatten(2).transpose(1, 2)


def half_the_channels(net, x):
    return net.block(x)[:, 2:6]


def an_intermediate_too(net, x):
    y = net.block(x)
    return {"low": y, "high": [net.block(y.relu()), y.shape[0]]}


def normalised_with_literals(net, x):
    return net.block((x - torch.tensor([0.5] * 8).view(1, 8, 1, 1)) / 0.25)


def normalised_after(net, x):
    return F.hardswish(net.norm(net.block(x) * net.scale))


def shuffled(net, x):
    y = net.block(x)
    return net.block(y.view(y.shape[0], 2, 4, *y.shape[2:]).transpose(1, 2).reshape(y.shape))


def repeated(net, x):
    for _ in range(3):
        x = x + net.block(x)
    return x.mean((2, 3))


def viewed_under_another_name(net, x):
    return net.block(net.block(x)[:, :, :, :].detach())


IN_KERNELS = [
    *(edit_in_place, transposed, tokens, half_the_channels, an_intermediate_too, normalised_with_literals),
    *(normalised_after, shuffled, repeated, viewed_under_another_name),
]


@pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"]
)
@pytest.mark.parametrize("call", IN_KERNELS, ids=lambda call: call.__name__)
def test_what_stands_around_kernels(compiled, agree, kernels, call, memory_format):
    model = Around(call).eval()
    fast = compiled(model)
    with torch.no_grad():
        for _ in range(2):
            agree(fast, model, torch.randn(2, 8, 6, 6).contiguous(memory_format=memory_format))
    assert kernels.since()


def mean_of_sevenths(net, x):
    y = net.block(x)
    return F.adaptive_avg_pool2d(y, (y.shape[2] // 6, y.shape[3] // 6)) * y.sum((2, 3), keepdim=True)


def first_two(net, x):
    return net.block(net.block(x)[:2]).flatten(1)


def first_six_rows(net, x):
    return net.block(net.block(x)[:, :, :6, :])


def padded_to_multiples(net, x):
    height, width = x.shape[2:]
    return net.block(F.pad(x, (0, math.ceil(width / 4) * 4 - width, 0, math.ceil(height / 4) * 4 - height)))


@pytest.mark.parametrize(
    "call",
    [mean_of_sevenths, first_two, first_six_rows, padded_to_multiples, repeated],
    ids=lambda c: c.__name__,
)
def test_what_depends_on_sizes_follows_them(compiled, agree, kernels, call):
    model = Around(call).eval()
    fast = compiled(model)
    with torch.no_grad():
        first = torch.randn(2, 8, 8, 8)
        torch._dynamo.mark_dynamic(first, [0, 2, 3])
        fast(first)
        for shape in [(2, 8, 12, 6), (3, 8, 13, 18), (1, 8, 6, 7), (4, 8, 6, 6)]:
            kernels.since()
            agree(fast, model, torch.randn(shape))
            assert kernels.since()


def test_sizes_are_free_from_the_second_on(model, compiled, agree, kernels):
    fast = compiled(model)
    with torch.no_grad():
        for shape in [(2, 3, 12, 12), (3, 3, 12, 12), (4, 3, 16, 20), (1, 3, 16, 16)]:
            agree(fast, model, torch.randn(shape))
        with torch._dynamo.config.patch(error_on_recompile=True):
            agree(fast, model, torch.randn(7, 3, 18, 30))
    assert kernels.since()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(model, images, compiled, kernels, dtype):
    model.to(dtype)
    fast = compiled(model)
    with torch.no_grad():
        assert torch.equal(fast(images.to(dtype)), model(images.to(dtype)))
    assert not kernels.since()


def test_autocast_around_the_call(model, images, compiled, kernels):
    fast = compiled(model)
    with torch.no_grad():
        fast(images)
        kernels.since()
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = fast(images), model(images)
    assert ours.dtype is torch.bfloat16
    assert torch.equal(ours, theirs)
    assert not kernels.since()


def test_no_images(model, compiled, agree):
    fast = compiled(model)
    with torch.no_grad():
        agree(fast, model, torch.randn(0, 3, 12, 12))


def test_numbers_that_are_none_pass_through(model, images, compiled):
    images[0, 0, 3, 3] = math.nan
    fast = compiled(model)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(fast(images), model(images), equal_nan=True, rtol=1e-5, atol=1e-5)


def test_hooks(model, images, compiled, agree, kernels):
    seen = []
    model.second[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model.first.register_forward_hook(lambda module, args, out: out.clamp(-0.1, 0.1))
    model.stem.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
    fast = compiled(model)
    with torch.no_grad():
        for _ in range(2):
            agree(fast, model, images)
    assert seen == [(2, 8, 6, 6)] * 4
    assert kernels.since()


def test_weights_of_a_function(compiled, agree, kernels):
    def call(x, weight, kernel):
        return F.conv2d(F.conv2d(x, kernel, padding=1, groups=8).relu(), weight)

    fast = compiled(call)
    with torch.no_grad():
        for _ in range(3):
            agree(fast, call, torch.randn(2, 8, 6, 6), torch.randn(4, 8, 1, 1), torch.randn(8, 1, 3, 3))
    assert not kernels.since()


def test_weights_computed_in_the_model(images, model, compiled, agree):
    nn.utils.parametrizations.weight_norm(model.first[3])
    fast = compiled(model)
    with torch.no_grad():
        agree(fast, model, images)
        model.first[3].parametrizations.weight.original0.mul_(2)
        for _ in range(2):
            agree(fast, model, images)


def test_weights_made_in_inference_mode(images, compiled, agree, kernels):
    with torch.inference_mode():
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
        fast = compiled(model)
        agree(fast, model, images)
        model[0].weight.mul_(2)
        agree(fast, model, images)
    assert not kernels.since()
