"""Training in fused chains is training in PyTorch: parameters, running statistics, the optimiser's state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import ninefold
from ninefold import training
from ninefold.training import chain


def separable(channels=8, out_channels=12, *, stride=1, dilation=1, bias=False, activation=nn.ReLU6, **norm):
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, dilation, dilation, channels, bias=bias),
        nn.BatchNorm2d(channels, **norm),
        activation(),
        nn.Conv2d(channels, out_channels, 1, bias=bias),
        nn.BatchNorm2d(out_channels, **norm),
        activation(),
    )


def images(channels=8, batch=3, size=9):
    return torch.randn(batch, channels, size, size)


class Around(nn.Module):
    """A block with a function around it."""

    def __init__(self, call, block=None):
        super().__init__()
        self.call = call
        self.block = block if block is not None else separable(8, 8)
        self.extra = separable(8, 8)

    def forward(self, *inputs):
        return self.call(self, *inputs)


@pytest.mark.parametrize(
    "activation", [nn.Identity, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU, nn.Hardsigmoid, nn.Sigmoid]
)
def test_each_activation(same_training, lively, chains, activation):
    same_training(lively(separable(activation=activation)).train(), images())
    assert chains.since() == 3


@pytest.mark.parametrize(
    "options",
    [{"stride": 2}, {"dilation": 2}, {"bias": True}, {"affine": False}, {"momentum": 0.3}, {"eps": 0.1}],
)
def test_each_option_of_a_layer(same_training, lively, chains, options):
    same_training((separable(**options)).train(), images())
    assert chains.since() == 3


@pytest.mark.parametrize("options", [{"momentum": None}, {"track_running_stats": False}])
def test_statistics_of_other_kinds(same_training, options):
    same_training(separable(**options).train(), images())


def residual(net, x):
    return x + net.block(x)


def residual_in_place(net, x):
    y = net.block(x)
    y += x
    return F.relu(y, inplace=True)


def residual_of_a_chain(net, x):
    return net.block(x).add_(net.extra(x))


def weight_used_twice(net, x):
    return net.block(net.block(x))


def statistics_used_between(net, x):
    y = net.block[2](net.block[1](net.block[0](x)))
    z = net.block[1](x)
    return net.block[3](y) + z


def functions(net, x):
    depthwise, norm, _, pointwise = net.block[:4]
    x = F.conv2d(F.pad(x, (1, 1, 1, 1)), depthwise.weight, None, 1, 0, 1, 8)
    x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, True)
    return torch.conv2d(x.clamp_(0, 6), pointwise.weight)


def value_seen_between(net, x):
    y = net.block[:3](x)
    return net.block[3:](y) + y.mean()


def written_between(net, x):
    y = net.block[:2](x.clone())
    z = y[:, :2]
    z.mul_(2)
    return net.block[2:](y)


def image_written_after(net, x):
    x = x * 2
    y = net.block[2:](net.block[:2](x).detach())
    x.mul_(3)
    return y + x


def view_of_the_result(net, x):
    y = net.block(x)
    # Divided, for steps along gradients in the thousands make much of rounding.
    return y.view(y.shape[0], -1) * torch.arange(y[0].numel()) / y[0].numel()


def strides_of_the_result(net, x):
    y = net.block(x)
    return y * y.stride(1) / 100


def one_channel_set(net, x):
    y = net.block(x)
    y[:, 1] = 0
    return y


def random_numbers(net, x):
    return F.dropout(net.block(F.dropout(x)), 0.3)


def computed_weight(net, x):
    weight = net.block[0].weight / net.block[0].weight.norm()
    return net.block[1:](F.conv2d(x, weight, padding="same", groups=8))


def without_gradients_inside(net, x):
    with torch.no_grad():
        y = net.extra(x)
    return net.block(y)


def autocast_inside(net, x):
    with torch.autocast("cpu", torch.bfloat16):
        y = net.extra(x)
    return net.block(y.float())


def graph_break_between(net, x):
    y = net.block[:3](x)
    torch._dynamo.graph_break()
    return net.block[3:](y)


def activation_ahead(net, x):
    x = x * 2
    return net.block(F.relu(x)) + x


def padded_activation_ahead(net, x):
    x = x * 2
    return net.block[1:](F.conv2d(F.pad(F.silu(x), (1, 1, 1, 1)), net.block[0].weight, groups=8)) + x


def activation_ahead_of_two(net, x):
    y = net.extra(x)
    return net.block(F.relu(y)) + y


def activation_used_twice(net, x):
    y = F.relu(x * 2)
    return net.block(y) + y


def activation_in_place(net, x):
    x = x * 2
    return net.block(F.relu(x, inplace=True)) + x


def activation_of_an_input(net, x):
    return net.block(F.relu(x))


def written_behind_the_activation(net, x):
    x = x * 2
    y = net.block(F.relu(x))
    x.mul_(3)
    return y + x


def written_by_another_name(net, x):
    x = x * 2
    y = net.block(F.relu(x))
    x[:, 1].mul_(3)
    return y + x


def written_by_what_it_is_a_view_of(net, x):
    whole = x * 2
    part = whole.view_as(x)
    y = net.block(F.relu(part))
    whole.mul_(3)
    return y + whole


def written_between_the_two(net, x):
    x = x * 2
    y = F.relu(x)
    x += 1
    return net.block(y) + x


def returned_behind_the_activation(net, x):
    x = net.extra[:1](x)
    return torch.stack((net.block(F.relu(x)), x))


AHEAD = {
    activation_ahead: ["relu"],
    padded_activation_ahead: ["silu"],
    activation_ahead_of_two: [None, "relu"],
    activation_used_twice: [None],
    activation_in_place: [None],
    activation_of_an_input: [None],
    written_behind_the_activation: [None],
    written_by_another_name: [None],
    written_by_what_it_is_a_view_of: [None],
    written_between_the_two: [None],
    returned_behind_the_activation: [None, None],
}


@pytest.mark.parametrize("call", AHEAD, ids=lambda call: call.__name__)
def test_an_activation_ahead_is_read_through_where_its_image_stays(same_training, lively, monkeypatch, call):
    seen, run = [], chain.run

    def noted(x, stages, *args, **named):
        seen.append(stages[0].ahead)
        return run(x, stages, *args, **named)

    monkeypatch.setattr(chain, "run", noted)
    same_training(lively(Around(call)).train(), images())
    assert seen == 3 * AHEAD[call]


FUSED = {
    residual: 1,
    residual_in_place: 1,
    residual_of_a_chain: 2,
    weight_used_twice: 1,
    functions: 1,
    value_seen_between: 2,
    written_between: 2,
    image_written_after: 2,
    view_of_the_result: 1,
    strides_of_the_result: 1,
    one_channel_set: 1,
    random_numbers: 1,
    computed_weight: 1,
    without_gradients_inside: 2,
    graph_break_between: 2,
    statistics_used_between: None,
    autocast_inside: None,
}


@pytest.mark.parametrize("call", FUSED, ids=lambda call: call.__name__)
def test_what_a_graph_may_do_around_a_chain(same_training, lively, chains, call):
    bfloat16 = call is autocast_inside
    same_training(lively(Around(call)).train(), images(), tolerance=2e-2 if bfloat16 else 2e-5)
    if FUSED[call] is not None:
        assert chains.since() == 3 * FUSED[call]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_are_pytorchs(same_training, lively, reentrant):
    def call(net, x):
        return checkpoint(lambda y: F.dropout(net.extra(net.block(y)), 0.4), x * 2, use_reentrant=reentrant)

    model = lively(Around(call)).train()
    same_training(model, images().requires_grad_())
    assert "block.0: it is inside a checkpoint" in training.summary(model)


def test_the_image_gets_its_gradient(lively, chains):
    model = lively(separable(8, 8)).train()
    plain = copy.deepcopy(model)
    x = images().requires_grad_()
    y = x.detach().clone().requires_grad_()
    (ninefold.for_training(model)(x) + x).square().sum().backward()
    (plain(y) + y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-4)
    assert chains.since() == 1


@pytest.mark.parametrize("frozen", ["0", "1", "3", "4", "all but the last"])
def test_frozen_parameters(same_training, lively, chains, frozen):
    model = lively(separable()).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen) if frozen[0] != "a" else name == "4.bias")
    same_training(model, images())
    assert chains.since() == 3


@pytest.mark.parametrize("frozen", [[1], [4], [1, 4]])
def test_batch_norms_in_eval_mode(same_training, lively, chains, frozen):
    model = lively(separable()).train()
    for index in frozen:
        model[index].eval()
    same_training(model, images())
    assert chains.since() == 3


def test_training_and_evaluation_in_turns(same_training, lively):
    def step(run, x):
        model = getattr(run, "_orig_mod", run)
        model.train()
        loss = run(x).square().mean()
        model.eval()
        with torch.no_grad():
            loss = loss + 0 * run(x).sum()
        return loss + run(x).mean()

    same_training(lively(separable()).train(), images(), step=step)


def test_gradients_accumulate(same_training, lively):
    def step(run, x):
        run(x[:2]).square().mean().backward()
        return run(x[1:]).square().mean()

    same_training(lively(separable()).train(), images(), step=step)


@pytest.mark.parametrize("sizes", [[(2, 9), (3, 12), (5, 7), (2, 9)]])
def test_batches_and_sizes_change(lively, chains, sizes):
    model = lively(Around(residual)).train()
    plain = copy.deepcopy(model)
    fast = ninefold.for_training(model)
    for batch, size in sizes:
        x = images(batch=batch, size=size)
        for run in (fast, plain):
            run(x).square().mean().backward()
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad, rtol=1e-4, atol=1e-5)
    assert chains.since() == len(sizes)


def test_hooks_are_called_and_obeyed(same_training, lively):
    model = lively(separable()).train()
    called = []
    model[1].register_forward_hook(lambda module, given, result: result * 2)
    model[3].register_forward_pre_hook(lambda module, given: called.append("before"))
    same_training(model, images())
    assert len(called) == 6  # in both models


def test_backward_hooks(lively):
    model = lively(separable(activation=nn.SiLU)).train()
    plain = copy.deepcopy(model)
    seen = []
    for net in (model, plain):
        net[3].register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0].clone()))
    x = images()
    for run in (ninefold.for_training(model), plain):
        run(x).square().mean().backward()
    ours, theirs = seen
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_sync_batch_norm_of_one_process(same_training, lively, chains):
    same_training(nn.SyncBatchNorm.convert_sync_batchnorm(lively(separable())).train(), images())
    assert chains.since() == 3


def test_under_autocast_pytorch_computes(same_training, lively, chains):
    def step(run, x):
        with torch.autocast("cpu", torch.bfloat16):
            return run(x).float().square().mean()

    model = lively(separable()).train()
    same_training(model, images(), step=step, tolerance=0)
    assert not chains.since()
    assert "0: autocast is on" in training.summary(model)


def test_other_dtypes_are_pytorchs(same_training, lively, chains):
    model = lively(separable()).double().train()
    same_training(model, images().double(), tolerance=0)
    assert not chains.since()
    assert "0: its input is float64 on cpu, not float32 on cpu" in training.summary(model)


def test_channels_last_models(same_training, lively, chains):
    model = lively(Around(residual)).train().to(memory_format=torch.channels_last)
    same_training(model, images().to(memory_format=torch.channels_last))
    assert chains.since() == 3


def test_results_have_pytorchs_strides(lively):
    model = lively(Around(lambda net, x: (net.block(x), net.extra(x).relu() * 2))).train()
    plain = copy.deepcopy(model)
    for x in (images(), images().to(memory_format=torch.channels_last)):
        ours, theirs = ninefold.for_training(model)(x), plain(x)
        assert [y.stride() for y in ours] == [y.stride() for y in theirs]


def test_nan_reaches_the_loss(lively):
    model = lively(separable()).train()
    x = images()
    x[0, 0, 0, 0] = float("nan")
    loss = ninefold.for_training(model)(x).sum()
    assert loss.isnan()
    loss.backward()
    assert model[3].weight.grad.isnan().any()


def test_one_value_per_channel_is_pytorchs_error():
    model = ninefold.for_training(separable().train())
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        model(images(batch=1, size=1))
    model(images(batch=2, size=1)).sum().backward()


def test_one_value_per_channel_after_other_sizes():
    model = ninefold.for_training(separable(stride=2).train())
    for size in (5, 4, 3):
        model(images(batch=2, size=size)).sum().backward()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        model(images(batch=1, size=1))


def test_a_chain_that_kernels_do_not_take_is_named(same_training, lively, chains, monkeypatch):
    monkeypatch.setattr(chain, "supported", lambda x, stages, tensors: "it is too large")
    model = lively(separable()).train()
    same_training(model, images(), tolerance=0)
    assert not chains.since()
    assert training.summary(model).splitlines() == [
        "0 of 2 convolutions train in 0 fused chains",
        "  PyTorch  0: it is too large",
        "  PyTorch  3: it is too large",
    ]


def test_gradients_of_gradients_are_refused(lively, chains):
    model = ninefold.for_training(lively(separable()).train())
    x = images().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    assert chains.since() == 1
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.square().sum().backward()


def test_what_is_kept_as_bfloat16_is_near(lively):
    model, x = lively(separable(activation=nn.SiLU)).train(), images()
    gradients = []
    for activations in (None, "bfloat16"):
        model.zero_grad()
        ninefold.for_training(model, activations=activations)(x).square().sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    exact, near = gradients
    assert 0 < (near - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("width", [11, 12, 28])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_pair_without_batch_norm_between_gives_its_input_the_right_gradient(width, stride):
    # The depthwise stage's gradient is plain there, but the image that it belongs to is another: from 12
    # columns on, the kernels read the image in its place, and a distillation by features went astray.
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, stride, 1, groups=8, bias=False),
        nn.Conv2d(8, 16, 1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
    ).train()
    x = torch.randn(2, 8, 9, width)
    found = []
    for run, image in ((copy.deepcopy(model).double(), x.double()), (ninefold.for_training(model), x)):
        image = image.clone().requires_grad_()
        y = run(image)
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        found.append([image.grad, run[0].weight.grad, run[1].weight.grad])
    for wanted, got in zip(*found, strict=True):
        assert (got - wanted).norm() < 1e-5 * wanted.norm()
