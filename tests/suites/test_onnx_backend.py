"""The convolution, batch-norm and activation cases of the ONNX backend suite, through Ninefold."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ninefold
from ninefold import ops

onnx = pytest.importorskip("onnx", reason="ONNX is not installed")

ACTIVATIONS = {
    "test_relu": "relu",
    "test_sigmoid": "sigmoid",
    "test_hardswish": "hardswish",
    "test_gelu_default_1": "gelu",
    "test_gelu_default_2": "gelu",
    "test_gelu_tanh_1": "gelu_tanh",
    "test_gelu_tanh_2": "gelu_tanh",
}
CONVOLUTIONS = 17  # six of ONNX itself, eleven that came from PyTorch


@pytest.fixture(scope="module")
def suite() -> dict[str, Any]:
    from onnx.backend.test.case import node
    from onnx.backend.test.loader import load_model_tests

    # A module adds its cases when it is imported; all of them together take half a minute.
    for name in ("conv", "batch_normalization", "relu", "sigmoid", "hardswish", "gelu"):
        import_module(f"onnx.backend.test.case.node.{name}")
    cases = [*node._NodeTestCases, *load_model_tests(kind="pytorch-converted")]
    return {case.name: case for case in cases}


def values(case: Any) -> tuple[Any, list[tuple[list[np.ndarray], list[np.ndarray]]]]:
    """The model, and (inputs, outputs) of each data set; a case is made in memory or lies in files."""
    if case.data_sets is not None:
        return case.model, case.data_sets
    from pathlib import Path

    folder = Path(case.model_dir)
    found = []
    for data in sorted(folder.glob("test_data_set_*")):
        sides = []
        for side in ("input", "output"):
            tensors = [onnx.load_tensor(str(path)) for path in sorted(data.glob(f"{side}_*.pb"))]
            sides.append([onnx.numpy_helper.to_array(tensor) for tensor in tensors])
        found.append((sides[0], sides[1]))
    return onnx.load(str(folder / "model.onnx")), found


def convolve(node: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """An ONNX Conv of images, by the operator that fits: its padding is (top, left, bottom, right)."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    mode = attributes.get("auto_pad", b"NOTSET").decode()
    padding: Any = (left, right, top, bottom)
    if mode in ("SAME_UPPER", "VALID"):
        padding = mode.lower()
    else:
        assert mode in ("NOTSET", "SAME_LOWER")
    if mode == "SAME_LOWER":  # the odd one at the beginning
        kernel, strides = weight.shape[2:], attributes.get("strides", (1, 1))
        totals = [
            max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(x.shape[2:], kernel, strides, strict=True)
        ]
        (tall, wide) = totals
        padding = (wide - wide // 2, wide // 2, tall - tall // 2, tall // 2)
    options = {
        "stride": tuple(attributes.get("strides", (1, 1))),
        "dilation": tuple(attributes.get("dilations", (1, 1))),
        "padding": padding,
    }
    groups = attributes.get("group", 1)
    if groups == x.shape[1] > 1:
        return ops.depthwise_conv2d(x, weight, bias, **options)
    return ops.conv2d(x, weight, bias, groups=groups, **options)


def is_convolution(case: Any) -> bool:
    model, _ = values(case)
    kinds = [node.op_type for node in model.graph.node]
    if set(kinds) - {"Conv", "Constant"} or "Conv" not in kinds:
        return False
    return len(model.graph.input[0].type.tensor_type.shape.dim) == 4


def test_convolutions(isa, suite) -> None:
    compared = 0
    for name, case in suite.items():
        if "onv" not in name or not is_convolution(case):
            continue
        model, data = values(case)
        (node,) = [n for n in model.graph.node if n.op_type == "Conv"]
        held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        free = [value.name for value in model.graph.input if value.name not in held]
        for inputs, outputs in data:
            tensors = held | dict(zip(free, inputs, strict=True))
            x, weight, *bias = (torch.from_numpy(np.array(tensors[key])) for key in node.input)
            got = convolve(node, x, weight, bias[0] if bias else None)
            np.testing.assert_allclose(got.numpy(), outputs[0], rtol=1e-4, atol=1e-5, err_msg=name)
            compared += 1
    assert compared == CONVOLUTIONS


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(isa, suite, name) -> None:
    _, data = values(suite[name])
    for (x,), (want,) in data:
        image = torch.from_numpy(np.array(x)).reshape(1, -1, 1, 1)
        one = torch.ones(image.shape[1], 1, 1, 1)
        got = ops.depthwise_conv2d(image, one, activation=ACTIVATIONS[name])
        np.testing.assert_allclose(got.numpy().reshape(x.shape), want, rtol=2e-6, atol=4e-7)


@pytest.mark.parametrize("name", ["test_batchnorm_example", "test_batchnorm_epsilon"])
def test_batch_norm(isa, suite, name) -> None:
    model, data = values(suite[name])
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in model.graph.node[0].attribute}
    for (x, scale, bias, mean, variance), (want,) in data:
        image, channels = torch.from_numpy(np.array(x)), x.shape[1]
        norm = nn.BatchNorm2d(channels, eps=attributes.get("epsilon", 1e-5))
        state = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": variance}
        norm.load_state_dict(
            {key: torch.from_numpy(np.array(value)) for key, value in state.items()}, strict=False
        )
        identity = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.dirac_(identity.weight)
        fast = ninefold.for_inference(nn.Sequential(identity, norm).eval(), image)
        assert all(layer.how != "pytorch" for layer in fast.layers)
        np.testing.assert_allclose(fast(image).numpy(), want, rtol=1e-5, atol=1e-5)
