"""Which backend a call goes to: compiled kernels on the CPU, Triton's on a GPU, else PyTorch's operators."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch.autograd import forward_ad

# Offsets inside one image are 32-bit in the kernels.
_MOST_ELEMENTS = 2**31
# Padding that outweighs an image by far is not what the kernels are made for: they may hold a band of the
# padded image in memory, which PyTorch never does.
_MOST_PADDED = 2**24
_PLAIN = (torch.Tensor, torch.nn.Parameter)
GPU_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MOST_TAPS, _MOST_STRIDE, _MOST_REACH = 49, 4, 16

# What `unobserved` asks before each call, found once: behind a convolution that swept the caches each name of
# PyTorch's that is looked up takes a third of a microsecond.
_FLOAT32 = torch.float32
_is_compiling, _is_grad_enabled, _is_autocast = (
    torch.compiler.is_compiling,
    torch.is_grad_enabled,
    torch.is_autocast_enabled,
)
_dispatch_modes, _function_modes = torch._C._len_torch_dispatch_stack, torch._C._len_torch_function_stack
_tracing_state, _is_profiled = torch._C._get_tracing_state, torch._C._autograd._profiler_enabled
_functorch_level = torch._C._functorch.peek_interpreter_stack


@cache
def kernels() -> ModuleType | None:
    """The module of compiled kernels, or None where they were not built; the first such call warns."""
    try:
        cpu = import_module("ninefold.ops.cpu")
        if cpu.available():
            return cpu
    except ImportError:
        pass
    warnings.warn(
        "ninefold's compiled CPU kernels are not installed for this platform; PyTorch's own operators do the "
        "work: right, but slower. `ninefold doctor` says more",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


@cache
def triton_kernels() -> ModuleType | None:
    """The module of Triton kernels, or None where Triton is not installed."""
    try:
        return import_module("ninefold.ops.gpu")
    except ImportError:
        return None


def passes(x: torch.Tensor) -> ModuleType:
    """The module of training's passes for where `x` lies; only where `for_call` gives kernels."""
    return import_module("ninefold.ops.gpu_passes" if on_gpu(x) else "ninefold.ops.passes")


def backward_passes(x: torch.Tensor) -> ModuleType:
    """The module of the operators' gradients for where `x` lies; only where `for_call` gives kernels."""
    return import_module("ninefold.ops.gpu_gradients" if on_gpu(x) else "ninefold.ops.passes")


def on_gpu(x: torch.Tensor) -> bool:
    """Whether Triton's kernels could run where `x` lies: NVIDIA's GPUs from compute capability 8.0."""
    return x.is_cuda and torch.version.hip is None and _capability(x.device) >= (8, 0)


def traceable(x: torch.Tensor) -> bool:
    """Whether a compiler can take Triton's kernels for `x` into its graph; it cannot what is interpreted."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return on_gpu(x) and not interpreted and triton_kernels() is not None


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def separable_on_gpu(
    grad: torch.Tensor,
    x: torch.Tensor,
    depthwise_weight: torch.Tensor,
    pointwise_weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> bool:
    """Whether Triton's kernels make all gradients of a separable convolution, and none of those gradients."""
    if torch.is_grad_enabled() or not on_gpu(x) or depthwise_weight.shape[0] != x.shape[1]:
        return False
    if grad.dtype is not x.dtype or depthwise_weight.dtype is not x.dtype:
        return False
    if unrolled_too_far(depthwise_weight.shape[2:], stride, dilation):
        return False
    pixels = grad.shape[2] * grad.shape[3]
    images = x.shape[1] * pixels, grad.shape[1] * pixels, reach(x.shape, stride, padding, dilation)
    return for_call(x, pointwise_weight, *images) is not None


def unrolled_too_far(kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> str:
    """Why a depthwise window is none that Triton's kernels take, which are unrolled over it; or ""."""
    if kernel[0] * kernel[1] > _MOST_TAPS:
        return f"a window of more than {_MOST_TAPS} taps"
    if max(stride) > _MOST_STRIDE:
        return f"a stride of more than {_MOST_STRIDE}"
    if any((size - 1) * step >= _MOST_REACH for size, step in zip(kernel, dilation, strict=True)):
        return f"a window that reaches over more than {_MOST_REACH} pixels"
    return ""


def taken_apart(x: torch.Tensor) -> bool:
    """Whether a call runs as PyTorch's own operators one by one, without an operator of ninefold's.

    So it is where PyTorch itself takes things apart: complex numbers, forward-mode gradients, `torch.func`.
    """
    if torch.compiler.is_compiling():
        return x.is_complex()
    return x.is_complex() or _differentiated()


def unobserved(needed: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether all are float32 tensors on the CPU, and nobody sees if a call goes past PyTorch's dispatcher.

    Its way to a function in Python takes 10 µs. It must be asked for a compiler, a tracer, a profiler, a mode
    or a subclass, for a gradient, and for a tensor that only says what its numbers are. `others` may be None.
    """
    if _is_compiling():
        return False
    recorded = _is_grad_enabled()
    for tensor in needed:
        if not _ordinary(tensor, recorded):
            return False
    for tensor in others:
        if tensor is not None and not _ordinary(tensor, recorded):
            return False
    return (
        _dispatch_modes() == 0
        and _function_modes() == 0
        and _tracing_state() is None
        and not _is_profiled()
        and not _is_autocast("cpu")
        and not _differentiated()
        and not on_gpu(needed[0])
        and kernels() is not None
    )


def _ordinary(tensor: Any, recorded: bool) -> bool:
    return (
        type(tensor) in _PLAIN
        and tensor.dtype is _FLOAT32
        and tensor.is_cpu
        and not (recorded and tensor.requires_grad)
        and not unresolved(tensor)
    )


def unresolved(x: torch.Tensor) -> bool:
    """Whether `x` only says what its numbers are: memory with the other sign, or none for zeros."""
    return x.is_neg() or x._is_zerotensor()


def _differentiated() -> bool:
    """Whether forward-mode gradients or `torch.func` are at work."""
    return forward_ad._current_level >= 0 or _functorch_level() is not None


def reach(x: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> int:
    """How far a convolution's positions reach in an image of shape `x`, in elements, for `for_call`."""
    _, channels, height, width = x
    left, right, top, bottom = padding
    padded = (height + top + bottom) * (width + left + right) * channels
    if padded > _MOST_PADDED and padded > 16 * channels * height * width:
        return _MOST_ELEMENTS
    return max(padded, max(stride) * channels, max(dilation) * channels)


def for_call(x: torch.Tensor, weight: torch.Tensor, *elements_per_image: int) -> ModuleType | None:
    """Return the kernels if they can take this call, None if it goes to PyTorch.

    They take dense float32 on the CPU, on a GPU also float16 and bfloat16, with something to compute and with
    fewer than 2³¹ elements in the weights, in an image of `x` and in each of the other images, whose sizes
    are given.
    """
    gpu = on_gpu(x)
    if gpu:
        if x.dtype not in GPU_DTYPES or weight.dtype is not x.dtype:
            return None
    elif not (x.dtype is torch.float32 and weight.dtype is torch.float32 and x.is_cpu):
        return None
    if x.layout is not torch.strided or weight.layout is not torch.strided:
        return None
    if unresolved(x) or unresolved(weight):
        return None
    elements = x.numel()
    if elements == 0 or max(elements // x.shape[0], weight.numel(), *elements_per_image) >= _MOST_ELEMENTS:
        return None
    return triton_kernels() if gpu else kernels()
