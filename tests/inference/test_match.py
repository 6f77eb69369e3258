"""Each rule by which parts of a network become one kernel, and each refusal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ninefold

X = torch.randn(1, 8, 12, 12, generator=torch.Generator().manual_seed(1))


def fates(fast) -> list[tuple[str, str]]:
    return [(layer.name, layer.how) for layer in fast.layers]


class Net(nn.Module):
    """A network given by a function of its layers and its input."""

    def __init__(self, run, **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs):
        return self.run(self, *inputs)


def test_a_separable_block_with_its_residual_is_one_kernel(freeze, separable):
    fast = freeze(Net(lambda net, x: net.block(x) + x, block=separable()), X)
    assert fates(fast) == [("block.0 + block.3", "fused")]
    assert fast.layers[0].why == (
        "depthwise 3×3, batch-norm folded, relu6, pointwise, batch-norm folded, residual added"
    )
    assert fast.shares == {"fused": 1, "kernel": 0, "pytorch": 0}


def test_the_residual_may_stand_on_either_side_and_be_added_in_place(freeze, separable):
    def run(net, x):
        y = x + net.first(x)
        y += net.second(y)
        return y

    fast = freeze(Net(run, first=separable(), second=separable()), X)
    assert [layer.why.endswith("residual added") for layer in fast.layers] == [True, True]


def test_multiplications_are_those_of_the_example(freeze, separable):
    fast = freeze(separable(8, 20, stride=2), X)
    assert fast.layers[0].multiplications == 6 * 6 * (8 * 9 + 8 * 20)


ACTIVATIONS = {
    "relu": F.relu,
    "relu in place": F.relu_,
    "relu6": F.relu6,
    "hardtanh in place": lambda x: F.hardtanh_(x, 0.0, 6.0),
    "clamp": lambda x: x.clamp(0, 6),
    "clamp in place": lambda x: x.clamp_(min=0),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "silu": F.silu,
    "silu in place": lambda x: F.silu(x, inplace=True),
    "hardswish": F.hardswish,
    "hardswish in place": lambda x: F.hardswish(x, inplace=True),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "sigmoid in place": torch.sigmoid_,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(freeze, name):
    activation = ACTIVATIONS[name]
    depthwise, pointwise = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 5, 1)
    net = Net(lambda net, x: activation(net.b(activation(net.a(x)))), a=depthwise, b=pointwise)
    fast = freeze(net, X)
    assert fates(fast) == [("a + b", "fused")]
    known = {"hardtanh": "relu6", "clamp": "relu6", "clamp in place": "relu", "clamp_min": "relu"}
    called = known.get(name.removesuffix(" in place"), name.removesuffix(" in place"))
    assert fast.layers[0].why.count({"clamp in place": "relu"}.get(name, called)) == 2


def test_other_bounds_are_other_functions(freeze):
    net = Net(lambda net, x: F.hardtanh(net.a(x), -1.0, 6.0).clamp(max=2), a=nn.Conv2d(8, 8, 3))
    assert freeze(net, X).layers[0].why == "convolution 3×3"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm_is_folded(freeze, lively, bias, affine):
    norm = nn.BatchNorm2d(6, affine=affine)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.running_mean)
    fast = freeze(Net(lambda net, x: net.n(net.c(x)), c=nn.Conv2d(8, 6, 3, bias=bias), n=norm), X)
    assert fast.layers[0].why == "convolution 3×3, batch-norm folded"


def test_denormal_weights_are_flushed():
    from ninefold.inference import fold

    weight = torch.tensor([1e-39, -1e-42, 1e-30, float("nan"), 0.0]).double()
    rounded = fold._rounded(weight)
    assert rounded[:2].tolist() == [0.0, 0.0]
    assert rounded[2].item() == pytest.approx(1e-30)
    assert rounded[3].isnan()


def test_batch_norm_that_uses_the_batch_is_left(freeze):
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    fast = freeze(Net(lambda net, x: F.relu(net.n(net.c(x))), c=nn.Conv2d(8, 8, 3), n=norm), X)
    assert fast.layers[0].why == "convolution 3×3"


PADS = {
    "around": ([1, 2, 0, 3], "constant", 0.0, True),
    "of one dimension": ([2, 1], "constant", 0.0, True),
    "with channels unpadded": ([1, 1, 1, 1, 0, 0], "constant", 0.0, True),
    "of channels": ([1, 1, 1, 1, 4, 4], "constant", 0.0, False),
    "of ones": ([1, 1, 1, 1], "constant", 1.0, False),
    "reflecting": ([1, 1, 1, 1], "reflect", None, False),
    "cropping": ([-1, 2, 0, 0], "constant", 0.0, False),
}


@pytest.mark.parametrize("kind", PADS)
def test_pads_of_zeros_are_absorbed(freeze, kind):
    pad, mode, value, absorbed = PADS[kind]
    convolution = nn.Conv2d(16 if kind == "of channels" else 8, 6, 3, stride=2, padding=(0, 1))
    fast = freeze(Net(lambda net, x: net.c(F.pad(x, pad, mode=mode, value=value)), c=convolution), X)
    assert fates(fast) == [("c", "kernel")]
    nodes = [str(node.target) for node in _graph(fast).nodes if node.op == "call_function"]
    assert any("pad" in name for name in nodes) != absorbed


def _graph(fast):
    (plan,) = fast._plans.values()
    return plan.run.graph


def test_a_pad_that_others_see_stays(freeze):
    def run(net, x):
        padded = F.pad(x, [1, 1, 1, 1])
        return net.a(padded), net.b(padded)

    fast = freeze(Net(run, a=nn.Conv2d(8, 4, 3), b=nn.Conv2d(8, 4, 1)), X)
    assert any("pad" in str(node.target) for node in _graph(fast).nodes)


def test_same_padding_by_name(freeze):
    fast = freeze(nn.Conv2d(8, 6, (3, 5), padding="same", dilation=(2, 1)), X)
    assert [layer.how for layer in fast.layers] == ["kernel"]


def test_an_inner_value_with_two_users_is_not_fused(freeze, separable):
    def run(net, x):
        inner = F.relu(net.a(x))
        return net.b(inner), inner

    fast = freeze(Net(run, a=nn.Conv2d(8, 8, 3, groups=8), b=nn.Conv2d(8, 5, 1)), X)
    assert fates(fast) == [("a", "kernel"), ("b", "kernel")]


def test_a_squeeze_between_the_stages_is_not_fused(freeze):
    def run(net, x):
        inner = F.relu(net.a(x))
        return net.b(inner * inner.mean((2, 3), keepdim=True).sigmoid())

    fast = freeze(Net(run, a=nn.Conv2d(8, 8, 3, groups=8), b=nn.Conv2d(8, 5, 1)), X)
    assert fates(fast) == [("a", "kernel"), ("b", "kernel")]


def test_activation_seen_before_it_is_applied(freeze):
    def run(net, x):
        y = net.a(x)
        return F.relu(y), y.sum()

    assert freeze(Net(run, a=nn.Conv2d(8, 8, 3)), X).layers[0].why == "convolution 3×3"


def test_in_place_changes_are_read_as_rebinding(freeze, separable):
    def run(net, x):
        y = net.stem(x)
        z = net.block(y)
        y.relu_()  # the residual below is the changed value, the block's input the one before
        z += y
        return F.relu_(z)

    fast = freeze(Net(run, stem=nn.Conv2d(8, 8, 1), block=separable()), X)
    assert fates(fast) == [("stem", "kernel"), ("block.0 + block.3", "fused")]


def test_an_unused_in_place_result_is_not_dead(freeze):
    def run(net, x):
        y = net.a(x)
        y.relu_()
        return net.b(y)

    fast = freeze(Net(run, a=nn.Conv2d(8, 8, 3, groups=8), b=nn.Conv2d(8, 5, 1)), X)
    assert fates(fast) == [("a + b", "fused")]
    assert "relu" in fast.layers[0].why


@pytest.mark.parametrize("view", ["view", "slice", "transpose", "chunk"])
def test_a_changed_view_is_left_to_pytorch(freeze, view):
    def run(net, x):
        y = net.a(x)
        part = {
            "view": lambda: y.view(y.shape[0], -1),
            "slice": lambda: y[:, 2:5],
            "transpose": lambda: y.transpose(1, 2),
            "chunk": lambda: y.chunk(2, 1)[1],
        }[view]()
        part.relu_()
        return net.b(y) + y.mean()

    fast = freeze(Net(run, a=nn.Conv2d(8, 8, 3, groups=8), b=nn.Conv2d(8, 5, 1)), X)
    assert fates(fast) == [("a", "kernel"), ("b", "kernel")]


def test_a_change_between_the_parts_of_a_block_keeps_them_apart(freeze):
    def run(net, x):
        y = net.stem(x)
        head = y[:, :4]
        z = net.b(net.a(y))
        head.mul_(0)
        return z + y

    fast = freeze(Net(run, stem=nn.Conv2d(8, 8, 1), a=nn.Conv2d(8, 8, 1, groups=8), b=nn.Conv2d(8, 8, 1)), X)
    assert ("a", "pytorch") in fates(fast)
    assert "changed in place" in next(layer.why for layer in fast.layers if layer.name == "a")


def test_views_may_follow_a_channels_last_block(freeze, separable):
    def run(net, x):
        return net.block(x).view(x.shape[0], -1), net.block(x).view(x.shape[0], 2, 4, -1).sum(1)

    fast = freeze(Net(run, block=separable()), X)
    assert {how for _, how in fates(fast)} == {"fused"}


def test_a_broadcast_or_doubled_value_is_no_residual(freeze, separable):
    fast = freeze(Net(lambda net, x: net.block(x) + x.mean((2, 3), keepdim=True), block=separable()), X)
    assert "residual" not in fast.layers[0].why

    def doubled(net, x):
        y = net.block(x)
        return y + y

    assert "residual" not in freeze(Net(doubled, block=separable()), X).layers[0].why
    scaled = Net(lambda net, x: torch.add(net.block(x), x, alpha=2), block=separable())
    assert "residual" not in freeze(scaled, X).layers[0].why


def test_two_branches_added_make_one_residual(freeze, separable):
    fast = freeze(Net(lambda net, x: net.a(x) + net.b(x), a=separable(), b=separable()), X)
    assert sum("residual" in layer.why for layer in fast.layers) == 1


def test_dropout_in_eval_is_nothing(freeze):
    fast = freeze(
        Net(
            lambda net, x: net.b(net.d(F.relu(net.a(x)))),
            a=nn.Conv2d(8, 8, 3, groups=8),
            b=nn.Conv2d(8, 5, 1),
            d=nn.Dropout2d(0.5, inplace=True),
        ),
        X,
    )
    assert fates(fast) == [("a + b", "fused")]


def test_multipliers_groups_and_dilations(freeze):
    net = Net(
        lambda net, x: net.c(net.b(net.a(x))),
        a=nn.Conv2d(8, 24, (3, 5), groups=8, stride=(2, 1), dilation=(1, 2), padding=(1, 0)),
        b=nn.Conv2d(24, 16, 1),
        c=nn.Conv2d(16, 8, 3, groups=4),
    )
    assert fates(freeze(net, X)) == [("a + b", "fused"), ("c", "kernel")]


def test_ninefolds_own_layers(freeze):
    net = nn.Sequential(
        ninefold.nn.SeparableConv2d(
            8, 12, 3, stride=2, padding="same_upper", depthwise_activation="gelu_tanh"
        ),
        ninefold.nn.DepthwiseConv2d(12, 3, padding=(0, 1, 2, 0), activation="hardswish"),
        ninefold.nn.PointwiseConv2d(12, 5, activation="relu6"),
    )
    fast = freeze(net, X)
    assert fates(fast) == [("0.depthwise + 0.pointwise", "fused"), ("1 + 2", "fused")]


def test_an_operator_called_with_a_residual(freeze):
    layer = ninefold.nn.SeparableConv2d(8, 8, 3, padding=1, activation="silu")
    fast = freeze(Net(lambda net, x: net.layer(x, x), layer=layer), X)
    assert fast.layers[0].why == "depthwise 3×3, pointwise, silu, residual added"


def test_one_layer_called_twice(freeze, separable):
    fast = freeze(Net(lambda net, x: net.block(F.relu(net.block(x))), block=separable()), X)
    assert fates(fast) == [("block.0 + block.3", "fused")] * 2


class Changing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1)
        self.register_buffer("scale", torch.full((8, 8, 1, 1), 0.1))

    def forward(self, x):
        self.scale.mul_(1.0)
        return F.conv2d(self.a(x), self.b.weight * 2) + F.conv2d(x[:, :, 2:, 2:], self.scale)


def test_weights_that_change_are_left(freeze):
    fast = freeze(Changing(), X)
    assert [layer.how for layer in fast.layers] == ["kernel", "pytorch", "pytorch"]
    assert fast.layers[1].why == "its weights are computed or changed while the network runs"


def test_other_dtypes_and_dimensions_are_left(freeze):
    fast = freeze(nn.Conv2d(8, 4, 3).double(), X.double())
    assert fast.layers[0].why == "its input is float64 on cpu, not float32 on cpu"
    net = Net(lambda net, x: net.c(net.t(x).flatten(2)), t=nn.ConvTranspose2d(8, 4, 2), c=nn.Conv1d(4, 3, 5))
    assert "kernel" not in {layer.how for layer in freeze(net, X).layers}


def test_a_linear_layer_after_pooling_is_a_pointwise_layer(freeze, separable):
    net = Net(lambda net, x: net.l(net.b(x).mean((2, 3))), b=separable(), l=nn.Linear(8, 10))
    fast = freeze(net, X)
    assert fast.layers[-1].how == "kernel"
    assert fast.layers[-1].multiplications == 80


def test_a_linear_layer_on_rows_of_an_image_is_counted_in_pytorch(freeze, separable):
    net = Net(lambda net, x: net.l(net.b(x)), b=separable(), l=nn.Linear(X.shape[3], 10))
    fast = freeze(net, X)
    assert fast.layers[-1].how == "pytorch"
    assert fast.layers[-1].why == "a linear layer"


def test_reading_by_strides_leaves_everything(freeze, separable):
    net = Net(lambda net, x: net.b(x).as_strided((4,), (1,)), b=separable())
    fast = freeze(net, X, batches=())
    assert "as_strided" in fast.layers[0].why
