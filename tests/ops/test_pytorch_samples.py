"""PyTorch's own samples and bad inputs for `conv2d`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ninefold import ops

database = pytest.importorskip(
    "torch.testing._internal.common_methods_invocations",
    reason="PyTorch's samples need packages that are not installed",
    exc_type=ImportError,
)
CONV2D = next(entry for entry in database.op_db if entry.name == "nn.functional.conv2d")


def _ours(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, **options) -> torch.Tensor:
    padding = options.pop("padding", 0)
    if isinstance(padding, tuple | list) and len(padding) == 1:
        padding = padding[0]
    return ops.conv2d(x, weight, bias, padding=padding, **options)


def test_samples(isa):
    compared = 0
    for sample in CONV2D.sample_inputs("cpu", torch.float32, requires_grad=True):
        named = ("weight", "bias", "stride", "padding", "dilation", "groups")
        options = dict(zip(named, sample.args, strict=False)) | sample.kwargs
        if sample.input.dim() != 4:
            continue  # an image without a batch is refused
        want = F.conv2d(sample.input, **options)
        got = _ours(sample.input, **options)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
        leaves = [tensor for tensor in (sample.input, *options.values()) if isinstance(tensor, torch.Tensor)]
        grad = torch.randn_like(want)
        torch.testing.assert_close(
            torch.autograd.grad(got, leaves, grad),
            torch.autograd.grad(want, leaves, grad),
            rtol=1e-4,
            atol=1e-4,
        )
        compared += 1
    assert compared >= 10


def test_what_pytorch_refuses_is_refused():
    refused = 0
    for bad in CONV2D.error_inputs("cpu"):
        sample = bad.sample_input
        with pytest.raises((ValueError, TypeError), match=r"`\w+.*` (must|is not)"):
            _ours(sample.input, *sample.args[:2], **sample.kwargs)
        refused += 1
    assert refused >= 5
