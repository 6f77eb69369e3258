"""Saved plans and layers that somebody altered: a clear error or the right answer, never a crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("ninefold._kernels", reason="the extension is not built")

from ninefold.ops.packed import Conv2d, Inverted, Separable
from ninefold.ops.sequence import Sequence, Step

ALTERED = Path(__file__).parents[2] / "verification" / "altered.py"


def test_three_hundred_altered_plans_are_refused_or_right() -> None:
    done = subprocess.run(
        [sys.executable, str(ALTERED), "--cases", "300"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    said = done.stdout.strip().splitlines()[-1]
    assert said.startswith("300 altered plans: ") and said.endswith(" right, 0 wrong")
    assert int(said.split(", ")[1].split()[0]) >= 20, "some still run"


def conv(outputs: int, inputs: int, size: int = 1, **options) -> Conv2d:
    weight = torch.randn(outputs, inputs // options.get("groups", 1), size, size)
    return Conv2d(weight, torch.randn(outputs), **options)


X = torch.randn(1, 8, 6, 6)


@pytest.mark.parametrize(
    ("what", "operands", "layer", "options", "words"),
    [
        ("layer", (0,), (4, 6), (), "a layer of 6 channels cannot take an image of 8"),
        ("layer", (0,), (4, 16, 3), (), "a layer of 16 channels cannot take an image of 8"),
        ("layer", (0, 0), (4, 8), (), "a residual must have the shape of what it is added to"),
        ("layer", (1,), (8, 8), (), r"`steps` must use earlier values, got \(1,\) in step 1"),
        ("layer", (-1,), (8, 8), (), "`steps` must use earlier values"),
        ("layer", (0,), (8, 8, 9), (), "a kernel is larger than its padded image"),
        ("unheard", (0,), None, (), "`steps` must be steps that there are, got 'unheard'"),
        ("add", (0,), None, (), "`steps` must take what 'add' takes, got 1 values and 0 options"),
        ("shuffle", (0,), None, (0,), "channels are not shuffled in such groups"),
        ("shuffle", (0,), None, ("x",), "`steps` must be as they were made, got 'shuffle': "),
        ("channels", (0,), None, (4, 9), "an image has no such channels"),
        ("largest", (0,), None, ((3, 3), (0, 1), (1, 1), False, (1, 1)), "a window's sizes must be positive"),
        ("largest", (0,), None, ((3, 3), (1, 1), (-1, 1), False, (1, 1)), "a padding must be non-negative"),
    ],
)
def test_what_does_not_fit_together_is_said(what, operands, layer, options, words) -> None:
    step = Step(what, operands, layer and conv(*layer), options)
    with pytest.raises(ValueError, match=words):
        Sequence(1, (step,), ((1, 4),)).run((X,))


@pytest.mark.parametrize("outputs", [((4, 4),), ((0, 4),), ((1, 3),), ()])
def test_outputs_that_are_no_steps_are_refused(outputs) -> None:
    with pytest.raises(ValueError, match=r"`(outputs|values)` must be"):
        Sequence(1, (Step("relu", (0,)),), outputs).run((X,))


def test_a_layer_whose_numbers_were_altered_is_refused() -> None:
    for name, value, words in (
        ("bias", torch.randn(5), r"`bias` must have shape \(4,\), one number per output channel, got \(5,\)"),
        ("bias", torch.randn(4).double(), "`bias` must have 1 dimensions of float32 on the CPU"),
        ("weight", torch.randn(4, 8), "`weight` must have 4 dimensions of float32"),
        ("groups", 3, "`groups` must divide the 4 output channels, got 3"),
        ("activation", "mish", "`activation` must be one of"),
        ("stride", (0, 1), "`stride` must be positive"),
    ):
        layer = conv(4, 8, 3)
        setattr(layer, name, value)
        with pytest.raises(ValueError, match=words):
            layer(X)


def test_a_packed_layer_refuses_an_image_of_other_channels() -> None:
    depthwise, pointwise = torch.randn(8, 1, 3, 3), torch.randn(4, 8, 1, 1)
    pair = Separable(depthwise, pointwise, None, None)
    inverted = Inverted(conv(16, 8), conv(16, 16, 3, groups=16), conv(8, 16))
    for layer in (conv(4, 8), conv(8, 8, 3, groups=8), conv(4, 8, 3), pair, inverted):
        assert layer(X).isfinite().all()
        with pytest.raises(ValueError, match="`x` must have 8 channels, got 9"):
            layer(torch.randn(1, 9, 6, 6))
        with pytest.raises(ValueError, match="`residual` must be float32 of shape"):
            layer(X, torch.randn(1, 1, 1, 1))


def test_stages_of_an_inverted_residual_that_were_altered_are_refused() -> None:
    for alter, words in (
        (lambda layer: setattr(layer, "padding", (9, 9, 9, 9)), "`padding` must be the depthwise stage's"),
        (
            lambda layer: setattr(layer.depthwise, "groups", 8),
            "must take the channels that the expansion gives",
        ),
        (lambda layer: setattr(layer.expansion, "stride", (2, 2)), "must be pointwise"),
        (
            lambda layer: setattr(layer.expansion, "weight", None),
            "`weight` must be a torch.Tensor, got NoneType",
        ),
    ):
        layer = Inverted(conv(16, 8), conv(16, 16, 3, groups=16), conv(8, 16))
        alter(layer)
        with pytest.raises((ValueError, TypeError), match=words):
            layer.kernel  # noqa: B018
