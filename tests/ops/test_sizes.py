"""Sizes near and past the ends of 32 bits: the right numbers or a clear error (pytorch 70523, 152816)."""

from __future__ import annotations

import subprocess
import sys
from unittest.mock import Mock

import pytest
import torch

from ninefold import measure, ops
from ninefold.ops import cpu

X = torch.arange(1.0, 101.0).reshape(1, 4, 5, 5)
DEPTHWISE = torch.arange(1.0, 37.0).reshape(4, 1, 3, 3)
STANDARD = torch.arange(1.0, 109.0).reshape(3, 4, 3, 3)
POINTWISE = torch.ones(2, 4, 1, 1)

CALLS = {
    "conv2d": lambda **options: ops.conv2d(X, STANDARD, **options),
    "depthwise": lambda **options: ops.depthwise_conv2d(X, DEPTHWISE, **options),
    "separable": lambda **options: ops.separable_conv2d(X, DEPTHWISE, POINTWISE, **options),
}


@pytest.fixture(params=CALLS)
def call(request):
    return CALLS[request.param]


@pytest.mark.parametrize("name", ["stride", "dilation", "padding"])
@pytest.mark.parametrize("number", [2**31, 2**32 + 1, 2**63 - 1, 2**63, 2**70])
def test_numbers_of_more_than_31_bits_are_refused(call, name, number):
    # A kernel of three taps so far apart does not fit the image, which is said first.
    words = "`kernel_size` must fit" if name == "dilation" else f"`{name}` must be less than 2³¹, got"
    with pytest.raises(ValueError, match=f"{words}.*{number}"):
        call(**{name: number})


def test_a_padded_image_of_more_than_31_bits_is_refused(call):
    with pytest.raises(ValueError, match=r"`padding` must leave the padded input below 2³¹ rows and columns"):
        call(padding=2**30)


def one_tap(weight: torch.Tensor, image: torch.Tensor, i: int, j: int, y: int, x: int) -> torch.Tensor:
    """What a kernel's tap (i, j) makes of the pixel (y, x)."""
    groups = image.shape[1] // weight.shape[1]
    parts = image[0, :, y, x].reshape(groups, -1)
    kernels = weight[:, :, i, j].reshape(groups, -1, weight.shape[1])
    return torch.einsum("gmc,gc->gm", kernels, parts).flatten()


@pytest.mark.parametrize("name", ["stride", "dilation"])
@pytest.mark.parametrize("far", [2**24, 2**29, 2**30 - 3])
def test_far_apart(isa, call, name, far):
    got = call(padding=far, **{name: far})
    weight = STANDARD if call is CALLS["conv2d"] else DEPTHWISE
    if name == "stride":  # the kernel starts at the image's first pixel
        got = got[0, :, 1, 1]
        want = sum(one_tap(weight, X, i, j, i, j) for i in range(3) for j in range(3))
    else:  # its nine taps lie so far apart that only the middle one sees the image
        got = got[0, :, 0, 0]
        want = one_tap(weight, X, 1, 1, 0, 0)
    if call is CALLS["separable"]:
        want = POINTWISE[:, :, 0, 0] @ want
    assert torch.equal(got, want)


@pytest.mark.parametrize("options", [{"stride": 2**31 - 1}, {"stride": 2**30}], ids=str)
def test_a_stride_past_the_end_gives_one_pixel(isa, call, options):
    assert torch.equal(call(**options), call()[:, :, :1, :1])


LIMITED = """
import re, resource, torch
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
from ninefold import ops
{body}
"""


def limited(body: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.format(body=body)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_wide_padding_takes_no_memory():
    # The padded image would be 4.8 GB, and the band of it that a border needs too. The peak is /proc's, since
    # getrusage's starts at that of the process that started this one.
    said = limited(
        "x, w = torch.ones(1, 3, 5, 5), torch.ones(4, 3, 3, 3)\n"
        "y = ops.conv2d(x, w, padding=10000, dilation=10000)\n"
        "peak = int(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1])\n"
        "print(tuple(y.shape), y.sum().item(), peak < 1 << 20)"
    )
    assert said == "(1, 4, 5, 5) 300.0 True"


BEYOND = {
    "pixels": "x = torch.ones(1, 1, 1, 1).expand(1, 1, 46342, 46342)\nw = torch.ones(1, 1, 1, 1)",
    "channels": "x = torch.ones(1, 1, 1, 1).expand(1, 2**31 + 8, 1, 1)\nw = x.transpose(0, 1)",
}


@pytest.mark.parametrize("case", BEYOND)
def test_images_of_more_than_two_to_the_31_are_right_or_refused(case):
    # 8.6 GB if it were dense, and this process may have 8: a wrong number would be the only fault.
    said = limited(
        f"{BEYOND[case]}\n"
        "try:\n"
        "    y = ops.depthwise_conv2d(x, w, stride=46341)\n"
        "    print('right' if y.flatten()[-1].item() == 1 and y.shape[2] in (1, 2) else y)\n"
        "except (RuntimeError, MemoryError) as error:\n"
        "    print('refused' if 'memory' in str(error) or 'alloc' in str(error) else error)"
    )
    assert said in ("right", "refused")


def test_a_plan_refuses_positions_beyond_32_bits():
    from ninefold.ops.packed import Conv2d
    from ninefold.ops.sequence import Sequence, Step

    far = Conv2d(torch.ones(4, 1, 3, 3), None, stride=(2**24, 2**24), padding=(2**24,) * 4, groups=4)
    sequence = Sequence(1, (Step("layer", (0,), far),), ((1, 4),))
    with pytest.raises(ValueError, match=r"a padded image of more than 2\^31 - 1 numbers is too large"):
        sequence.run((X,))
    assert torch.equal(far(X), ops.depthwise_conv2d(X, far.weight, stride=2**24, padding=2**24))


@pytest.mark.parametrize("isa", cpu.instruction_sets())
def test_calls_that_pytorch_does_quicker_are_left_to_it_unless_forced(isa, monkeypatch) -> None:
    x, few, large = torch.ones(1, 16, 12, 12), torch.ones(1, 256, 7, 7), torch.ones(1, 16, 60, 60)
    square, heavy, filters = torch.ones(16, 16, 3, 3), torch.ones(512, 128, 3, 3), torch.ones(16, 1, 3, 3)
    calls = {
        "conv2d": (lambda: ops.conv2d(few, heavy, groups=2), lambda: ops.conv2d(x, square)),
        "pointwise_conv2d": (
            lambda: ops.pointwise_conv2d(x[:, :4], square[:2, :4, :1, :1]),
            lambda: ops.pointwise_conv2d(x, square[..., :1, :1]),
        ),
        "depthwise_conv2d": (
            lambda: ops.depthwise_conv2d(large, filters[..., :2]),
            lambda: ops.depthwise_conv2d(x, filters, dilation=2),
        ),
    }
    for name, (theirs, ours) in calls.items():
        kernel = Mock(side_effect=getattr(cpu, name))
        monkeypatch.setattr(cpu, name, kernel)
        wanted = theirs(), ours()
        assert kernel.call_count == 1
        with cpu.forced(isa):
            assert torch.equal(theirs(), wanted[0]) and torch.equal(ours(), wanted[1])
        assert kernel.call_count == 3


def test_little_work_wakes_no_second_thread_unless_forced() -> None:
    little, much = torch.empty(1, 32, 16, 16), torch.empty(1, 32, 64, 64)
    weight = torch.empty(32, 32, 1, 1)
    with measure.torch_threads(2):
        assert cpu._threads(little, weight, 2**20) == 1
        assert cpu._threads(much, weight, 2**20) == 2
        with cpu.forced(cpu.instruction_set()):
            assert cpu._threads(little, weight, 2**20) == 2
    with measure.torch_threads(1):
        assert cpu._threads(much, weight, 2**20) == 1
