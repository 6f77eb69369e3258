"""What tensors may be: any strides, no batch, NaN, either memory format, subclasses of float."""

from __future__ import annotations

import pytest
import torch

from ninefold import ops, reference
from ninefold.ops import cpu, fallback

NAN_KINDS = [float("nan"), float("inf"), float("-inf")]


def _calls(channels: int, integers):
    depthwise, pointwise = integers(channels, 1, 3, 3), integers(4, channels, 1, 1)
    standard = integers(4, channels, 3, 3)
    return {
        "conv2d": (ops.conv2d, reference.conv2d, (standard,), {"padding": 1}),
        "depthwise": (ops.depthwise_conv2d, reference.depthwise_conv2d, (depthwise,), {"padding": 1}),
        "pointwise": (ops.pointwise_conv2d, reference.pointwise_conv2d, (pointwise,), {}),
        "separable": (
            ops.separable_conv2d,
            reference.separable_conv2d,
            (depthwise, pointwise),
            {"padding": 1},
        ),
    }


@pytest.fixture(params=["conv2d", "depthwise", "pointwise", "separable"])
def call(request, integers):
    """Each operator, its reference, weights for six channels, and keyword arguments."""
    return _calls(6, integers)[request.param]


VIEWS = {
    "expanded": lambda make: make(1, 6, 1, 1).expand(2, 6, 8, 9),
    "cropped nchw": lambda make: make(2, 6, 12, 12)[:, :, 2:10, 1:10],
    "cropped nhwc": lambda make: make(2, 12, 12, 6).permute(0, 3, 1, 2)[:, :, 2:10, 1:10],
    "every second channel": lambda make: make(2, 12, 8, 9)[:, ::2],
    "every second pixel": lambda make: make(2, 12, 16, 6).permute(0, 3, 1, 2)[:, :, ::2, ::2],
    "transposed": lambda make: make(2, 6, 9, 8).transpose(2, 3),
    "batch innermost": lambda make: make(6, 8, 9, 2).permute(3, 0, 1, 2),
    "offset": lambda make: make(3, 6, 8, 9)[1:],
}


@pytest.mark.parametrize("view", VIEWS)
def test_any_strides(isa, call, integers, view):
    run, truth, weights, options = call
    x = VIEWS[view](integers)
    got = run(x, *weights, **options)
    assert torch.equal(got, torch.from_numpy(truth(x, *weights, **options)).float())
    assert got.is_contiguous() or got.is_contiguous(memory_format=torch.channels_last)


def test_weights_of_any_strides(isa, call, integers):
    run, truth, weights, options = call
    turned = [torch.cat([w, w], 0)[::2].flip(0).to(memory_format=torch.channels_last) for w in weights]
    turned[0] = turned[0].transpose(2, 3)
    x = integers(1, 6, 8, 9)
    got = run(x, *turned, **options)
    assert torch.equal(got, torch.from_numpy(truth(x, *turned, **options)).float())


def test_an_empty_batch_gives_an_empty_batch(isa, layout, call, integers):
    run, _, weights, options = call
    got = run(integers(0, 6, 8, 9).to(memory_format=layout), *weights, **options)
    assert got.shape == run(integers(1, 6, 8, 9), *weights, **options)[:0].shape


@pytest.mark.parametrize("shape", [(2, 6, 1, 1), (1, 6, 1, 5), (1, 6, 5, 1), (3, 6, 2, 2)], ids=str)
def test_fake_and_real_strides_agree(isa, layout, call, integers, shape):
    run, _, weights, options = call
    x = integers(*shape).to(memory_format=layout)
    real = run(x, *weights, **options)
    fake = run(x.to("meta"), *(w.to("meta") for w in weights), **options)
    assert real.shape == fake.shape
    assert real.is_contiguous() == fake.is_contiguous()
    channels_last = {"memory_format": torch.channels_last}
    assert real.is_contiguous(**channels_last) == fake.is_contiguous(**channels_last)


@pytest.mark.parametrize("bad", NAN_KINDS, ids=str)
def test_nan_and_infinity_travel_as_in_pytorch(isa, activation, integers, bad):
    if isa == "fallback" and activation == "gelu" and bad == float("inf"):
        bad = float("nan")  # PyTorch's own gelu(inf) is inf or NaN, by the tensor's size
    x = integers(1, 17, 6, 6)
    x[0, 3, 2, 2] = bad
    x[0, 16, 0, 5] = bad
    # With weights of one sign no infinities meet their opposites, in whatever order the sums are taken.
    depthwise, pointwise = integers(17, 1, 3, 3).abs() + 1, integers(19, 17, 1, 1).abs() + 1
    pairs = [
        (ops.depthwise_conv2d, (depthwise,), {"padding": 1}),
        (ops.pointwise_conv2d, (pointwise,), {}),
        (ops.conv2d, (pointwise.expand(19, 17, 3, 3).contiguous(),), {"padding": 1}),
        (ops.separable_conv2d, (depthwise, pointwise), {"padding": 1, "depthwise_activation": activation}),
    ]
    truths = [
        reference.depthwise_conv2d,
        reference.pointwise_conv2d,
        reference.conv2d,
        reference.separable_conv2d,
    ]
    for (run, weights, options), truth in zip(pairs, truths, strict=True):
        got = run(x, *weights, activation=activation, **options)
        want = torch.from_numpy(truth(x, *weights, activation=activation, **options)).float()
        assert torch.equal(got.isnan(), want.isnan())
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_nan_in_a_weight_and_in_a_residual(isa, integers):
    x, weight, residual = integers(1, 6, 4, 4), integers(5, 6, 1, 1), integers(1, 5, 4, 4)
    weight[2, 1] = float("nan")
    residual[0, 4, 3, 3] = float("nan")
    got = ops.pointwise_conv2d(x, weight, activation="relu", residual=residual)
    assert got[0, 2].isnan().all()
    assert got[0, 4, 3, 3].isnan()
    assert not got[0, [0, 1, 3]].isnan().any()


def test_autocast_gives_what_pytorch_gives(call, integers):
    run, _, weights, options = call
    x = integers(1, 6, 8, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = run(x, *weights, **options)
        mixed = run(x, *(w.bfloat16() for w in weights), **options)
    assert got.dtype is mixed.dtype is torch.bfloat16
    assert torch.equal(got, run(x.bfloat16(), *(w.bfloat16() for w in weights), **options))


def test_missing_kernels_warn_once_and_clearly(monkeypatch, integers):
    from ninefold.ops import backend

    monkeypatch.setattr(backend, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    backend.kernels.cache_clear()
    try:
        with pytest.warns(
            RuntimeWarning, match="compiled CPU kernels are not installed.*ninefold doctor"
        ) as seen:
            for _ in range(2):
                ops.pointwise_conv2d(integers(1, 3, 2, 2), integers(2, 3, 1, 1))
        assert len(seen) == 1
    finally:
        backend.kernels.cache_clear()


def test_one_channel_whose_strides_say_channels_last(integers):
    # PyTorch 2.13's own convolution of it adds what lies in memory behind: other numbers at each call.
    x, weight = integers(1, 1, 41, 13), integers(4, 1, 7, 7)
    x = x.contiguous(memory_format=torch.channels_last).as_strided(x.shape, (533, 1, 13, 1))
    wanted = torch.from_numpy(reference.depthwise_conv2d(x, weight, stride=(1, 7))).float()
    for k in range(8):
        dirt = [torch.full((size,), 7.0 + k) for size in range(8, 1600, 8)]
        del dirt
        got = fallback.convolve(x, weight, None, (1, 7), (0, 0, 0, 0), (1, 1), 1)
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    "shape", [(1, 3, 224, 224), (2, 3, 7, 5), (1, 1, 9, 9), (2, 70, 19, 33), (1, 257, 12, 11), (3, 2, 300, 1)]
)
def test_an_image_is_laid_out_as_pytorch_does(shape, threads) -> None:
    planes = torch.randn(shape)
    pixels = planes.contiguous(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for image, wanted in ((planes, torch.channels_last), (pixels, torch.contiguous_format)):
            out = cpu.laid_out(image, wanted)
            assert (
                torch.equal(out, planes) and out.stride() == image.contiguous(memory_format=wanted).stride()
            )
    finally:
        torch.set_num_threads(before)


def test_laying_out_leaves_what_is_dense_alone_and_copies_any_view() -> None:
    planes = torch.randn(2, 4, 6, 8)
    assert cpu.laid_out(planes, torch.contiguous_format) is planes
    for view in (planes[:, 1:], planes[..., ::2], planes.expand(2, 4, 6, 8)[:0], planes.double(), planes.mT):
        out = cpu.laid_out(view, torch.channels_last)
        assert torch.equal(out, view) and out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("doubles")
def test_the_default_dtype_is_nobodys_business(isa, layout, call, integers):
    run, truth, weights, options = call
    x = integers(1, 6, 9, 9).to(memory_format=layout)
    got = run(x, *weights, **options)
    assert torch.equal(got, torch.from_numpy(truth(x, *weights, **options)).float())
    x.requires_grad_()
    plain = [x.detach().double().requires_grad_(), *(w.double() for w in weights)]
    for kind in ("silu", "relu6"):
        (ours,) = torch.autograd.grad(run(x, *weights, activation=kind, **options).sum(), x)
        (theirs,) = torch.autograd.grad(run(*plain, activation=kind, **options).sum(), plain[0])
        assert ours.dtype is torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
