"""Numbers that are not ordinary float32, at every public entry: right as in PyTorch, or an error in words."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ninefold
from ninefold import ops
from ninefold.training import backend

DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.int64, torch.uint8, torch.bool]
REFUSALS = (TypeError, ValueError, RuntimeError)  # RuntimeError: PyTorch's own words, "not implemented for"


def drawn(*shape: int) -> torch.Tensor:
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(0)).float()


X, D, P, S = drawn(2, 8, 9, 7), drawn(8, 1, 3, 3), drawn(6, 8, 1, 1), drawn(6, 8, 3, 3)
ENTRIES = {
    "conv2d": (lambda c: ops.conv2d(c(X), c(S), padding=1), lambda c: F.conv2d(c(X), c(S), padding=1)),
    "depthwise": (
        lambda c: ops.depthwise_conv2d(c(X), c(D), padding=1, activation="relu"),
        lambda c: F.relu(F.conv2d(c(X), c(D), padding=1, groups=8)),
    ),
    "pointwise": (
        lambda c: ops.pointwise_conv2d(c(X), c(P), residual=c(drawn(2, 6, 9, 7))),
        lambda c: F.conv2d(c(X), c(P)) + c(drawn(2, 6, 9, 7)),
    ),
    "separable": (
        lambda c: ops.separable_conv2d(c(X), c(D), c(P), padding=1),
        lambda c: F.conv2d(F.conv2d(c(X), c(D), padding=1, groups=8), c(P)),
    ),
}


def either(ours, theirs) -> None:
    """PyTorch's result, or an error of one line where PyTorch has one."""
    try:
        wanted = theirs()
    except REFUSALS:
        with pytest.raises(REFUSALS) as caught:
            ours()
        assert str(caught.value)
        return
    try:
        got = ours()
    except (TypeError, ValueError) as error:
        assert str(error) and "\n" not in str(error)
        return
    assert got.dtype == wanted.dtype and got.shape == wanted.shape
    coarse = 3e-2 if wanted.dtype in (torch.float16, torch.bfloat16) else 1e-5
    torch.testing.assert_close(got, wanted, rtol=coarse, atol=coarse * float(wanted.abs().max()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("entry", ENTRIES)
def test_operators_in_every_dtype(entry, dtype):
    ours, theirs = ENTRIES[entry]
    either(lambda: ours(lambda t: t.to(dtype)), lambda: theirs(lambda t: t.to(dtype)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("entry", ENTRIES)
def test_an_image_of_another_dtype_than_the_weights_is_refused(entry, dtype):
    ours, _ = ENTRIES[entry]
    with pytest.raises(TypeError, match=r"`\w+` must have the dtype of `x`"):
        ours(lambda t: t.to(dtype) if t is X else t)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6()),
        *(nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.ReLU()),
    )
    nn.init.normal_(body[1].running_mean)
    nn.init.uniform_(body[1].running_var, 0.5, 2)
    return body.eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_frozen_network_takes_images_of_every_dtype_as_pytorch_does(dtype):
    plain = network()
    fast = ninefold.for_inference(plain, X)
    with torch.no_grad():
        either(lambda: fast(X.to(dtype)), lambda: plain(X.to(dtype)))
        torch.testing.assert_close(fast(X), plain(X), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64], ids=str)
def test_networks_of_every_dtype(dtype):
    plain = nn.Sequential(network()[0], network()[3]).to(dtype)
    x = X.to(dtype)
    with torch.no_grad():
        either(lambda: ninefold.for_inference(plain, x)(x), lambda: plain(x))
    torch._dynamo.reset()
    either(lambda: torch.compile(plain, backend=backend)(x).detach(), lambda: plain(x).detach())


def step(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Every gradient of one step, beside each other."""
    model(x).abs().square().sum().backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64], ids=str)
@pytest.mark.parametrize("image", ["its own", "float32"])
def test_a_training_step_in_every_dtype(dtype, image):
    plain = network() if not dtype.is_complex else nn.Sequential(network()[0], network()[3])
    plain, x = plain.to(dtype).train(), X.to(dtype) if image == "its own" else X
    learning = ninefold.for_training(copy.deepcopy(plain))
    either(lambda: step(learning, x), lambda: step(plain, x))
    torch._dynamo.reset()


def standard(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3))
    return body.to(dtype).eval()


@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.float64, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)], ids=str
)
def test_conversion_of_every_dtype_gives_what_float32_gives(dtype, rounding):
    """Fitted in double precision whatever the network's: only the weights are rounded."""
    x = torch.randn(8, 8, 12, 12, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = ninefold.convert(standard(torch.float32), x, x, terms=2).model(x)
        model = standard(dtype)
        result = ninefold.convert(model, x.to(dtype), x.to(dtype), terms=2)
        got = result.model(x.to(dtype))
    assert got.dtype is dtype and {weight.dtype for weight in result.model.parameters()} == {dtype}
    assert float((got - wanted).abs().max()) <= rounding * float(wanted.abs().max())


@pytest.mark.parametrize(
    "dtype", [torch.complex64, torch.float64, torch.float16, torch.int64, torch.uint8], ids=str
)
def test_conversion_refuses_images_of_another_dtype_in_words(dtype):
    said = f"of float32, got .* of {str(dtype).removeprefix('torch.')}"
    for example, images, words in ((X, X.to(dtype), said), (X.to(dtype), None, "should be the same")):
        with pytest.raises((ValueError, RuntimeError), match=words):  # the second in PyTorch's words
            ninefold.convert(standard(torch.float32), example, images, terms=1)


@pytest.mark.filterwarnings("ignore:Complex modules")
def test_conversion_leaves_complex_layers():
    with pytest.raises(
        ValueError, match=r"a convolution to convert, got none \(.*: its weights are torch.complex"
    ):
        ninefold.convert(nn.Conv2d(8, 4, 3).to(torch.complex64), X.to(torch.complex64), terms=1)


@pytest.mark.parametrize("module", [nn.Conv2d, nn.BatchNorm2d])
def test_a_network_whose_layers_have_two_dtypes_fails_as_in_pytorch(module):
    mixed = network()
    for layer in mixed:
        if isinstance(layer, module):
            layer.double()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        either(lambda: ninefold.for_inference(mixed, X)(X), lambda: mixed(X))


@pytest.mark.parametrize("far", [1e2, 1e4, 1e6])
def test_a_large_mean_is_folded_as_near_as_pytorch_computes_it(far):
    """Folded, beta - mean·scale is one bias; what float32 loses in it, PyTorch loses elsewhere."""
    plain = network()
    with torch.no_grad():
        for norm, before in ((plain[1], plain[0]), (plain[4], plain[3])):
            norm.running_mean.fill_(far)
            before.bias.fill_(far)
    exact = network().double()
    exact.load_state_dict(plain.state_dict())
    with torch.no_grad():
        wanted = exact(X.double())
        ours, theirs = (
            float((run(X) - wanted).abs().max()) for run in (ninefold.for_inference(plain, X), plain)
        )
    assert ours <= 4 * theirs + 1e-5


@pytest.mark.parametrize("size", [1e3, 1e6])
def test_sums_that_cancel_are_as_near_as_pytorchs(size):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(6, 64, 1, 1, generator=generator) * size
    x = torch.randn(1, 64, 9, 9, generator=generator)
    weight, x = torch.cat([weight, -weight], 1), torch.cat([x, x + torch.randn_like(x) * 1e-6], 1)
    wanted = F.conv2d(x.double(), weight.double())
    bound = 128 * 2.0**-24 * F.conv2d(x.double().abs(), weight.double().abs())
    assert ((ops.pointwise_conv2d(x, weight) - wanted).abs() <= bound).all()
    depthwise = torch.ones(128, 1, 1, 1)
    assert ((ops.separable_conv2d(x, depthwise, weight) - wanted).abs() <= bound).all()
