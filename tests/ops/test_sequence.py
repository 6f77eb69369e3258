"""A stretch as one call: the same numbers as step by step, whatever shares the arena."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch

from ninefold.ops import cpu
from ninefold.ops.packed import Conv2d, Inverted, Separable
from ninefold.ops.sequence import Sequence, Step

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the extension is not built")


@pytest.fixture(params=cpu.instruction_sets() or ["none"])
def kernels(request):
    """Pack for each instruction set of this machine."""
    with cpu.forced(request.param):
        yield request.param


def conv(
    n: int, c: int, k: int, *, groups: int = 1, activation: str | None = None, stride: int = 1
) -> Conv2d:
    weight = torch.randint(-2, 3, (n, c // groups, k, k)).float()
    bias = torch.randint(-3, 4, (n,)).float()
    padding = (k // 2,) * 4
    return Conv2d(
        weight, bias, stride=(stride, stride), padding=padding, groups=groups, activation=activation
    )


def pair(c: int, n: int) -> Separable:
    depthwise, pointwise = (
        torch.randint(-1, 2, (c, 1, 3, 3)).float(),
        torch.randint(-1, 2, (n, c, 1, 1)).float(),
    )
    return Separable(depthwise, pointwise, None, None, padding=(1, 1, 1, 1), depthwise_activation="relu6")


def network() -> Sequence:
    """Branches, a residual, a gate, a value that leaves twice: 0 the image, then a step a line."""
    torch.manual_seed(0)
    gate = conv(24, 6, 1)
    gate.weight *= 1 / 512  # so that it is neither open nor shut
    return Sequence(
        1,
        (
            Step("layer", (0,), conv(24, 3, 3, stride=2, activation="relu6")),  # 1
            Step("layer", (1,), conv(24, 24, 5, groups=24)),  # 2
            Step("layer", (2, 1), conv(24, 24, 1)),  # 3, with a residual
            Step("mean", (3,)),  # 4
            Step("layer", (4,), conv(6, 24, 1, activation="relu")),  # 5
            Step("layer", (5,), gate),  # 6
            Step("hardsigmoid", (6,)),  # 7
            Step("scale", (3, 7)),  # 8
            Step("layer", (8, 8), pair(24, 24)),  # 9
            Step("relu6", (9,)),  # 10
            Step("add", (10, 2)),  # 11
            Step("layer", (11, 10), conv(24, 24, 3, groups=24)),  # 12: a residual the kernel cannot add
            Step("mean", (12,)),  # 13
        ),
        ((11, 4), (13, 4), (13, 2)),
    )


@pytest.mark.parametrize("shape", [(1, 3, 20, 20), (3, 3, 9, 14), (2, 3, 2, 1)], ids=str)
def test_a_sequence_is_its_steps(kernels, shape, threads):
    sequence, x = network(), torch.randint(-4, 5, shape).float()
    wanted = sequence.step_by_step(x)
    for poison in (False, True, False):
        got = sequence.run((x,), poison=poison)
        assert [out.shape for out in got] == [out.shape for out in wanted]
        for ours, theirs in zip(got, wanted, strict=True):
            assert (ours - theirs).abs().max() <= 2e-6 * theirs.abs().max()


def test_other_sizes_and_batches_work_and_results_do_not_share_memory(kernels):
    sequence = network()
    first = sequence(torch.ones(1, 3, 16, 16))
    kept = [out.clone() for out in first]
    sequence(torch.full((4, 3, 31, 7), 2.0))
    sequence(torch.zeros(1, 3, 16, 16))
    for out, before in zip(first, kept, strict=True):
        assert torch.equal(out, before)


def test_a_chain_takes_two_buffers(kernels):
    chain = Sequence(1, tuple(Step("layer", (k,), conv(16, 16, 1)) for k in range(9)), ((9, 4),))
    one = 16 * 8 * 8 * 4
    assert chain.plan.arena_bytes([(1, 8, 8, 16)]) == 2 * one


def test_many_threads_share_one_sequence(kernels):
    sequence, x = network(), torch.randint(-4, 5, (1, 3, 24, 24)).float()
    wanted, wrong = sequence(x), []

    def work() -> None:
        for _ in range(20):
            if not all(torch.equal(a, b) for a, b in zip(sequence(x), wanted, strict=True)):
                wrong.append(threading.get_ident())

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_copies_and_pickles_compute_the_same(kernels):
    sequence, x = network(), torch.randint(-4, 5, (1, 3, 12, 12)).float()
    wanted = sequence(x)
    for twin in (copy.deepcopy(sequence), pickle.loads(pickle.dumps(sequence))):
        assert all(torch.equal(a, b) for a, b in zip(twin(x), wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_go_step_by_step(dtype):
    steps = (Step("relu", (0,)), Step("mean", (1,)))
    x = torch.randn(1, 5, 4, 4, dtype=dtype)
    (got,) = Sequence(1, steps, ((2, 4),))(x)
    assert got.dtype is dtype
    torch.testing.assert_close(got, x.relu().mean((2, 3), keepdim=True))


def test_images_that_do_not_fit_are_refused(kernels):
    sequence = Sequence(2, (Step("add", (0, 1)), Step("relu", (2,))), ((3, 4),))
    with pytest.raises(ValueError, match="images of two shapes cannot be added"):
        sequence(torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 5))


# The wide image of the first two does not fit a cache and is made a few rows at a time; the last one fits.
INVERTED = [
    ((1, 16, 112, 112), 96, 24, 3, 2, (0, 1, 0, 1)),
    ((2, 8, 90, 61), 144, 8, 5, 1, (2, 2, 2, 2)),
    ((2, 24, 14, 14), 72, 40, 3, 1, (1, 1, 1, 1)),
]


@pytest.mark.parametrize("case", INVERTED, ids=str)
@pytest.mark.parametrize("activation", ["relu6", "silu"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_an_inverted_residual_is_its_three_stages(kernels, case, activation, threads):
    shape, wide, outputs, k, stride, padding = case
    torch.manual_seed(0)
    channels = shape[1]
    expansion = Conv2d(torch.randn(wide, channels, 1, 1), torch.randn(wide), activation=activation)
    depthwise = Conv2d(
        torch.randn(wide, 1, k, k),
        torch.randn(wide),
        stride=(stride, stride),
        padding=padding,
        groups=wide,
        activation=activation,
    )
    projection = Conv2d(torch.randn(outputs, wide, 1, 1) / wide, torch.randn(outputs))
    x = torch.randn(shape)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        wanted = projection(depthwise(expansion(x)))
        residual = torch.randn(wanted.shape)
        narrow, wide_only = torch.randn(depthwise(expansion(x)).shape), Inverted(expansion, depthwise)
        torch.testing.assert_close(wide_only(x), depthwise(expansion(x)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(wide_only(x, narrow), wide_only(x) + narrow, rtol=1e-5, atol=1e-5)
        block = Inverted(expansion, depthwise, projection)
        torch.testing.assert_close(block(x), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(block(x, residual), wanted + residual, rtol=1e-5, atol=1e-5)
        assert torch.equal(block(x), block(x))
    finally:
        torch.set_num_threads(before)


def test_stages_that_do_not_follow_one_another_are_refused(kernels):
    with pytest.raises(ValueError, match="must take the channels that the expansion gives"):
        Inverted(conv(8, 4, 1), conv(6, 6, 3, groups=6), conv(4, 6, 1))(torch.ones(1, 4, 9, 9))


@pytest.mark.parametrize("channels", [1, 7, 16, 33, 80])
def test_layer_norm_keeps_its_digits_far_from_zero(kernels, channels):
    x = torch.randn(2, channels, 5, 3) + 1000
    gain, offset = torch.randn(channels), torch.randn(channels)
    sequence = Sequence(
        1, (Step("layer_norm", (0,), None, (gain, offset, 1e-6)), Step("relu", (1,))), ((2, 4),)
    )
    (got,) = sequence(x)
    normal = torch.nn.functional.layer_norm(
        x.double().permute(0, 2, 3, 1), (channels,), gain.double(), offset.double(), 1e-6
    )
    wanted = normal.permute(0, 3, 1, 2).relu()
    # One rounding of the mean, 3e-5 at 1000, is what float32 cannot help.
    assert (got - wanted).abs().max() < 1e-3


@pytest.mark.parametrize("channels", [(3, 5), (16, 1, 8), (33, 31)], ids=str)
def test_concatenation_and_channels(kernels, channels):
    images = [torch.randn(2, c, 4, 3) for c in channels]
    count = len(images)
    steps = (
        Step("concatenation", tuple(range(count))),
        Step("channels", (count,), None, (1, channels[0] + 1)),
    )
    whole, part = Sequence(count, steps, ((count, 4), (count + 1, 4)))(*images)
    assert torch.equal(whole, torch.cat(images, 1))
    assert torch.equal(part, whole[:, 1 : channels[0] + 1])


def test_each_step_has_its_time_also_where_the_extension_makes_two_of_it() -> None:
    x = torch.randn(1, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    layer = Conv2d(torch.randn(8, 8, 3, 3), None, padding=(1, 1, 1, 1))
    steps = (Step("layer", (0, 0), layer), Step("relu", (1,)), Step("mean", (2,)))
    sequence = Sequence(1, steps, ((3, 2),))
    assert sequence.in_extension(x)
    results, seconds = sequence.timed(x)
    assert torch.equal(results[0], sequence(x)[0])
    assert len(seconds) == 3 and all(each > 0 for each in seconds)


def test_images_are_written_where_they_are_concatenated(kernels, threads):
    """GhostNet's module: a pointwise layer, a depthwise one from it, both side by side without a copy."""
    sequence = Sequence(
        1,
        (
            Step("layer", (0,), conv(24, 3, 3)),  # 1
            Step("layer", (1,), conv(40, 24, 1, activation="relu")),  # 2
            Step("layer", (2,), conv(40, 40, 3, groups=40, activation="silu")),  # 3
            Step("concatenation", (2, 3)),  # 4, made of both
            Step("layer", (4,), conv(24, 80, 1)),  # 5
            Step("add", (5, 1)),  # 6
            Step("layer", (6,), conv(8, 24, 1)),  # 7
            Step("layer", (6,), conv(8, 24, 3, groups=8)),  # 8: a standard convolution, copied
            Step("concatenation", (7, 8, 7)),  # 9: read twice, copied
            Step("concatenation", (9, 7)),  # 10, a result
        ),
        ((10, 4),),
    )
    x = torch.randint(-2, 3, (2, 3, 9, 7)).float()
    (wanted,) = sequence.step_by_step(x)
    for poison in (False, True, False):
        (got,) = sequence.run((x,), poison=poison)
        assert (got - wanted).abs().max() <= 2e-6 * wanted.abs().max()
    images = 24 + 80 + 24  # channels that live at once: 1, 4 with 2 and 3 in it, 5
    assert sequence.plan.arena_bytes([(2, 9, 7, 3)]) <= images * 2 * 9 * 7 * 4 + 3 * 64


@pytest.mark.parametrize("size", [1, 3, 17])
@pytest.mark.parametrize("residual", [False, True])
def test_a_pointwise_layer_applies_the_gate_of_its_image(kernels, threads, size, residual):
    sequence = Sequence(
        2,
        (
            Step("scale", (0, 1)),
            Step("layer", (2, 0) if residual else (2,), conv(40, 40, 1, activation="silu")),
        ),
        ((3, 4),),
    )
    x, gate = torch.randn(3, 40, size, size), torch.rand(3, 40, 1, 1)
    (got,), (wanted,) = sequence.run((x, gate)), sequence.step_by_step(x, gate)
    assert (got - wanted).abs().max() <= 2e-6 * wanted.abs().max()
    assert sequence.plan.arena_bytes([(3, size, size, 40), (3, 1, 1, 40)]) == 0


@pytest.mark.parametrize("size", [9, 150])
@pytest.mark.parametrize("batch", [2, 3, 5])
def test_a_batch_is_its_images_bit_for_bit(kernels, threads, size, batch):
    """However they are shared out: few at a time where the arena is large, or one thread an image."""
    sequence, x = network(), torch.randn(batch, 3, size, size)
    alone = [sequence.run((x[n : n + 1],)) for n in range(batch)]
    for poison in (False, True):
        together = sequence.run((x,), poison=poison)
        for value, images in zip(together, zip(*alone, strict=True), strict=True):
            assert torch.equal(value, torch.cat(images))


@pytest.mark.parametrize("batch", [2, 8, 9, 19])
def test_small_layers_behind_large_ones_take_a_batch_bit_for_bit(kernels, threads, batch):
    """Large images run one after another, and from where they are small several share the weights."""
    torch.manual_seed(batch)
    sequence = Sequence(
        1,
        (
            Step("layer", (0,), conv(64, 3, 3, activation="relu6")),  # 1
            Step("layer", (1,), conv(24, 64, 3, stride=4)),  # 2
            Step("layer", (2,), conv(24, 24, 5, groups=24, stride=4)),  # 3
            Step("layer", (3, 3), pair(24, 24)),  # 4
            Step("concatenation", (3, 4)),  # 5
            Step("layer", (5,), conv(40, 48, 1, activation="relu")),  # 6
            Step("mean", (6,)),  # 7
            Step("layer", (7,), conv(70, 40, 1)),  # 8
        ),
        ((6, 4), (8, 2)),
    )
    x = torch.randint(-2, 3, (batch, 3, 160, 161)).float()
    alone = [
        torch.cat(value) for value in zip(*(sequence.run((x[n : n + 1],)) for n in range(batch)), strict=True)
    ]
    for poison in (False, True, False):
        for got, wanted in zip(sequence.run((x,), poison=poison), alone, strict=True):
            assert torch.equal(got, wanted)
    got, seconds = sequence.timed(x)
    assert torch.equal(got[1], alone[1])
    assert len(seconds) == len(sequence.steps) and min(seconds) > 0


@pytest.mark.parametrize(("channels", "size"), [(24, 9), (40, 61), (5, 33)])
@pytest.mark.parametrize("expands", [False, True])
def test_a_mean_is_taken_as_a_depthwise_layer_writes(kernels, threads, channels, size, expands):
    """It is the mean of all rows bit for bit, however many images there are and whoever made which row."""
    torch.manual_seed(channels)
    wide = 4 * channels if expands else channels
    layer = conv(wide, wide, 5, groups=wide, activation="silu")
    if expands:
        layer = Inverted(conv(wide, channels, 1, activation="silu"), layer)
    sequence = Sequence(
        1,
        (
            Step("layer", (0,), layer),  # 1
            Step("mean", (1,)),  # 2
            Step("layer", (2,), conv(8, wide, 1)),  # 3
            Step("layer", (1,), conv(8, wide, 1)),  # 4
        ),
        ((2, 2), (3, 2), (4, 4)),
    )
    x = torch.randn(3, channels, size, size)
    alone = [
        torch.cat(value) for value in zip(*(sequence.run((x[n : n + 1],)) for n in range(3)), strict=True)
    ]
    for poison in (False, True, False):
        for got, image, wanted in zip(
            sequence.run((x,), poison=poison), alone, sequence.step_by_step(x), strict=True
        ):
            assert torch.equal(got, image)
            assert (got - wanted).abs().max() <= 2e-6 * wanted.abs().max()
    _, seconds = sequence.timed(x)
    assert seconds[1] == 0


def strided(n: int, c: int, k: int, groups: int = 1, dilation: int = 1) -> Conv2d:
    """A convolution at stride 2 with TensorFlow's padding, more of it at the right and below."""
    weight, before = torch.randint(-2, 3, (n, c // groups, k, k)).float(), dilation * (k - 1) // 2
    geometry = {"stride": (2, 2), "dilation": (dilation, dilation), "groups": groups}
    return Conv2d(
        weight, None, padding=(before - 1, before, before - 1, before), activation="relu", **geometry
    )


FOLLOWING = {
    "standard": lambda: strided(20, 24, 3),
    "depthwise": lambda: strided(24, 24, 5, groups=24),
    "dilated": lambda: strided(24, 24, 3, groups=24, dilation=3),
    "separable": lambda: pair(24, 20),
    "inverted": lambda: Inverted(conv(30, 24, 1), strided(30, 30, 3, groups=30), conv(20, 30, 1)),
}


@pytest.mark.parametrize("second", FOLLOWING)
@pytest.mark.parametrize("first", ["image", "arena"])
def test_a_large_image_is_made_for_the_next_layer_row_by_row(kernels, threads, first, second):
    """Images of more than the second-level cache, made from the network's or from one in the arena."""
    torch.manual_seed(1)
    made = conv(24, 3 if first == "image" else 12, 3, activation="relu6")
    steps = (
        Step("layer", (0,), conv(12, 3, 3)),  # 1
        Step("layer", (0 if first == "image" else 1,), made),  # 2
        Step("layer", (2,), FOLLOWING[second]()),  # 3
        Step("layer", (3,), conv(16, 24 if second in ("depthwise", "dilated") else 20, 1)),  # 4
    )
    sequence = Sequence(1, steps, ((1, 4), (4, 4)) if first == "image" else ((4, 4),))
    for size in ((131, 130), (230, 230)):
        x = torch.randint(-2, 3, (2, 3, *size)).float()
        wanted = sequence.step_by_step(x)
        for poison in (False, True, False):
            for got, right in zip(sequence.run((x,), poison=poison), wanted, strict=True):
                assert torch.equal(got, right)
        got, seconds = sequence.timed(x)
        assert torch.equal(got[-1], wanted[-1])
        assert len(seconds) == 4 and min(seconds) > 0


POOLINGS = [
    ("largest", ((3, 3), (2, 2), (1, 1), False, (1, 1))),
    ("largest", ((2, 3), (1, 2), (1, 0), True, (2, 1))),
    ("largest", ((1, 1), (2, 2), (0, 0), True, (1, 1))),
    ("average", ((3, 3), (2, 2), (1, 1), False, True, None)),
    ("average", ((3, 2), (2, 1), (1, 1), True, True, None)),
    ("average", ((3, 3), (2, 3), (1, 1), True, False, None)),
    ("average", ((2, 2), (2, 2), (0, 0), False, True, 3)),
]


@pytest.mark.parametrize(("what", "options"), POOLINGS, ids=str)
@pytest.mark.parametrize("shape", [(1, 3, 7, 7), (2, 24, 6, 9), (1, 17, 5, 4)], ids=str)
def test_pooling_is_pytorchs(kernels, what, options, shape, threads):
    x = torch.randint(-4, 5, shape).float()
    # Alone, of part of a wider image, and as part of one.
    sequence = Sequence(
        1,
        (
            Step("concatenation", (0, 0)),
            Step("channels", (1,), options=(1, shape[1] + 1)),
            Step(what, (2,), options=options),
            Step(what, (0,), options=options),
            Step("concatenation", (3, 4)),
        ),
        ((3, 4), (4, 4), (5, 4)),
    )
    wanted = sequence.step_by_step(x)
    for got, right in zip(sequence.run((x,), poison=True), wanted, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-6, atol=1e-6)


def test_the_largest_of_a_nan_is_nan(kernels):
    x = torch.randn(1, 24, 6, 6)
    x[0, 3, 2, 2], x[0, 20, 0, 0], x[0, 5] = torch.nan, torch.nan, -torch.inf
    sequence = Sequence(1, (Step("largest", (0,), options=POOLINGS[0][1]), Step("relu", (1,))), ((1, 4),))
    torch.testing.assert_close(sequence.run((x,))[0], sequence.step_by_step(x)[0], equal_nan=True)


@pytest.mark.parametrize("groups", [1, 2, 3, 12])
def test_a_shuffle_is_pytorchs(kernels, groups):
    x = torch.randn(2, 24, 5, 3)
    sequence = Sequence(1, (Step("shuffle", (0,), options=(groups,)), Step("add", (1, 0))), ((1, 4), (2, 4)))
    for got, right in zip(sequence.run((x,)), sequence.step_by_step(x), strict=True):
        assert torch.equal(got, right)
