"""What PyTorch asks of an operator, asked of these where Triton's kernels run: schema, fake, gradients."""

from __future__ import annotations

import pytest
import torch

GEOMETRY = ([1, 1], [1, 1, 1, 1], [1, 1])


def cases(image):
    x, first, second = image(2, 8, 5, 5), image(8, 1, 3, 3), image(12, 8, 1, 1)
    grad = image(2, 12, 5, 5)
    needed = [True, True, True, False, False]
    return {
        "depthwise_conv2d": (x, first, image(8), *GEOMETRY, "relu"),
        "pointwise_conv2d": (x, second, None, "silu", grad),
        "convolution_backward": (grad, x, second, [1, 1], [0, 0, 0, 0], [1, 1], 1, True, True),
        "separable_backward": (grad, x, first, second, None, None, *GEOMETRY, "relu", None, needed),
    }


NAMES = ["depthwise_conv2d", "pointwise_conv2d", "convolution_backward", "separable_backward"]


@pytest.mark.parametrize("name", NAMES)
def test_an_operator_is_what_pytorch_asks(name, image, launched):
    given = [
        value.requires_grad_() if isinstance(value, torch.Tensor) and "backward" not in name else value
        for value in cases(image)[name]
    ]
    asked = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(getattr(torch.ops.ninefold, name).default, given, test_utils=asked)
    assert launched
