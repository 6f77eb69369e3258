"""Compilers see through the operators: a traced graph has the kernels in it, forward and backward."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch._functorch.aot_autograd import aot_export_joint_simple
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table

from ninefold import ops
from ninefold.ops import backend

triton = pytest.importorskip("triton", reason="triton is not installed")
from triton.backends.compiler import GPUTarget  # noqa: E402


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the CPU stand for a GPU's: nothing is run, and what is written is read off the kernels."""
    target = SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32))
    monkeypatch.setattr(triton.runtime, "driver", SimpleNamespace(active=target))
    monkeypatch.setattr(backend, "on_gpu", lambda x: True)


def kernels(function, *inputs: torch.Tensor) -> list[str]:
    """The kernels in the joint graph of a function and its gradient."""
    graph = aot_export_joint_simple(lambda *given: (function(*given),), inputs, trace_joint=True).graph
    assert not [node for node in graph.nodes if "ninefold" in str(node.target)]
    numbers = [node.kwargs["kernel_idx"] for node in graph.nodes if "triton_kernel" in str(node.target)]
    return [kernel_side_table.get_kernel(number).fn.__name__ for number in numbers]


def image(*shape: int) -> torch.Tensor:
    made = torch.randn(shape, dtype=torch.bfloat16)
    made = made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made
    return made.requires_grad_()


def test_a_separable_convolution() -> None:
    def layer(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        acts = {"depthwise_activation": "relu", "activation": "silu"}
        return ops.separable_conv2d(x, first, second, padding=1, **acts)

    found = kernels(layer, image(2, 16, 8, 8), image(16, 1, 3, 3), image(24, 16, 1, 1))
    assert found[0] == "separable_kernel"
    assert {"depthwise_kernel", "depthwise_weight_kernel", "pointwise_kernel"} < set(found)
    assert {"pointwise_weight_kernel", "reduce_kernel", "sum_kernel"} < set(found)


def test_the_stages_alone() -> None:
    def layers(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return ops.pointwise_conv2d(ops.depthwise_conv2d(x, first, stride=2), second)

    found = kernels(layers, image(2, 16, 9, 9), image(16, 1, 3, 3), image(8, 16, 1, 1))
    assert found.count("depthwise_kernel") == 2 and found.count("pointwise_kernel") == 2
    assert {"depthwise_weight_kernel", "pointwise_weight_kernel"} < set(found)
