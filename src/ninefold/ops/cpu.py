"""The compiled kernels, for dense float32 tensors on the CPU: packed weights, images passed as NHWC.

The callers have checked shapes, types and sizes (`ninefold.shape`, `ops.backend`); here addresses are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ninefold.ops.layout import memory_format

try:
    from ninefold import _kernels
except ImportError:
    _kernels = None  # type: ignore[assignment]

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]

_CPU = torch.device("cpu")
# Multiplications from which on a second thread is worth waking: a pointwise layer of half as many took 45 µs
# with two and 37 with one (Zen 4, medians over the grid of `benchmarks/cliffs.py`).
_SHARED, _SHARED_POINTWISE = 2**18, 2**20
_forced = False


def available() -> bool:
    """Whether the extension was built for this platform and this processor can run it."""
    return _kernels is not None and bool(_kernels.instruction_sets())


def instruction_sets() -> list[str]:
    """The instruction sets that were compiled and that this processor has, best first."""
    return list(_kernels.instruction_sets()) if _kernels is not None else []


def instruction_set() -> str:
    """The one that weights are packed for from now on."""
    return str(_kernels.instruction_set())


@contextmanager
def forced(name: str) -> Iterator[None]:
    """Pack for this instruction set inside the block, and leave no call to PyTorch for being quicker there.

    Nor to one thread. For tests and benchmarks.
    """
    global _forced
    before, was = instruction_set(), _forced
    _kernels.use(name)
    _forced = True
    try:
        yield
    finally:
        _kernels.use(before)
        _forced = was


def is_forced() -> bool:
    """Whether a call stays in the kernels, wherever those can take it."""
    return _forced


@contextmanager
def lasting() -> Iterator[None]:
    """Pack weights that will be kept inside the block: they lie side by side, on large pages."""
    _kernels.weights_last(True)
    try:
        yield
    finally:
        _kernels.weights_last(False)


def laid_out(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """The image x (batch, C, H, W), dense in this format: itself, or a copy.

    The extension turns planes into pixels and back: 3×224×224 in half of PyTorch's 0.09 ms,
    64×112×112 in a quarter of its 0.8.
    """
    if x.is_contiguous(memory_format=memory_format):
        return x
    other = torch.contiguous_format if memory_format is torch.channels_last else torch.channels_last
    plain = x.dtype is torch.float32 and x.device.type == "cpu" and not x.is_neg() and x.numel() > 0
    if _kernels is None or not plain or not x.is_contiguous(memory_format=other):
        return x.contiguous(memory_format=memory_format)
    n, c, h, w = x.shape
    rows, columns = (c, h * w) if other is torch.contiguous_format else (h * w, c)
    out = torch.empty_like(x, memory_format=memory_format)
    _kernels.transpose(x.data_ptr(), n, rows, columns, out.data_ptr(), torch.get_num_threads())
    return out


def like(x: Tensor, out: Tensor) -> Tensor:
    """`out` in the memory format of `x`, which is what an operator gives back."""
    return laid_out(out, memory_format(x))


class Convolution:
    """One convolution with its weights packed: depthwise, pointwise or standard, whichever fits."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: Pair,
        dilation: Pair,
        groups: int,
        activation: str | None,
        channels: int,
        winograd: bool = False,
    ) -> None:
        self.out_channels, _, kh, kw = weight.shape
        self.kernel_size, self.stride, self.dilation = (kh, kw), stride, dilation
        window = _kernels.Window(kh, kw, *stride, *dilation)
        name = activation or ""
        weight, offset = _dense(weight), bias if bias is None else _dense(bias)
        addresses = weight.data_ptr(), _address(offset)
        self.flat = (kh, kw, *stride, groups) == (1, 1, 1, 1, 1)
        outputs, threads = self.out_channels, torch.get_num_threads()
        if self.flat:
            self.kernel: Any = _kernels.Pointwise(*addresses, channels, outputs, name, threads)
        elif groups == channels and (channels > 1 or outputs == 1):
            self.kernel = _kernels.Depthwise(*addresses, channels, outputs // channels, window, name)
        else:
            self.kernel = _kernels.Conv2d(
                *addresses, channels, outputs, groups, window, name, threads, winograd
            )

    def __call__(self, x: Tensor, padding: Sides, residual: Tensor | None = None) -> Tensor:
        """Convolve x (batch, C, H, W); the result is channels-last."""
        x = laid_out(x, torch.channels_last)
        n, c, h, w = x.shape
        if self.flat and padding == (0, 0, 0, 0):
            out = empty(n, self.out_channels, h, w)
            if residual is not None:
                residual = laid_out(residual, torch.channels_last)
            self.kernel.run(
                x.data_ptr(), n * h * w, _address(residual), out.data_ptr(), torch.get_num_threads()
            )
            return out
        if self.flat:
            return self(torch.nn.functional.pad(x, padding), (0, 0, 0, 0), residual)
        size = _output_size(self, h, w, padding)
        out = empty(n, self.out_channels, *size)
        sides = _kernels.Padding(*padding)
        self.kernel.run(x.data_ptr(), n, h, w, c, sides, out.data_ptr(), torch.get_num_threads())
        return out if residual is None else out.add_(residual)


class Separable:
    """A depthwise and a pointwise convolution as one call, the filtered image never leaving the cache."""

    def __init__(
        self,
        depthwise_weight: Tensor,
        pointwise_weight: Tensor,
        depthwise_bias: Tensor | None,
        pointwise_bias: Tensor | None,
        stride: Pair,
        dilation: Pair,
        depthwise_activation: str | None,
        activation: str | None,
        channels: int,
    ) -> None:
        hidden, _, kh, kw = depthwise_weight.shape
        self.out_channels = pointwise_weight.shape[0]
        self.kernel_size, self.stride, self.dilation = (kh, kw), stride, dilation
        window = _kernels.Window(kh, kw, *stride, *dilation)
        # The names hold the dense copies until the extension has read them.
        stages = [_dense(depthwise_weight), _dense(pointwise_weight)]
        offsets = [b if b is None else _dense(b) for b in (depthwise_bias, pointwise_bias)]
        at = [_address(b) for b in offsets]
        filtering = _kernels.Depthwise(
            stages[0].data_ptr(), at[0], channels, hidden // channels, window, depthwise_activation or ""
        )
        combining = _kernels.Pointwise(
            stages[1].data_ptr(), at[1], hidden, self.out_channels, activation or "", torch.get_num_threads()
        )
        self.kernel = _kernels.Separable(filtering, combining)
        self.adds = True

    def __call__(self, x: Tensor, padding: Sides, residual: Tensor | None = None) -> Tensor:
        """Convolve x (batch, C, H, W); the result is channels-last."""
        return _fused(self, x, padding, residual)


class Inverted:
    """A pointwise, a depthwise and perhaps a pointwise convolution as one call: an inverted residual."""

    def __init__(
        self, expansion: Convolution, depthwise: Convolution, projection: Convolution | None
    ) -> None:
        self.out_channels = (projection or depthwise).out_channels
        self.kernel_size, self.stride, self.dilation = (
            depthwise.kernel_size,
            depthwise.stride,
            depthwise.dilation,
        )
        last = None if projection is None else projection.kernel
        self.kernel = _kernels.Inverted(expansion.kernel, depthwise.kernel, last)
        self.adds = projection is not None

    def __call__(self, x: Tensor, padding: Sides, residual: Tensor | None = None) -> Tensor:
        """Convolve x (batch, C, H, W); the result is channels-last."""
        return _fused(self, x, padding, residual)


def _fused(layer: Separable | Inverted, x: Tensor, padding: Sides, residual: Tensor | None) -> Tensor:
    x = laid_out(x, torch.channels_last)
    n, c, h, w = x.shape
    size = _output_size(layer, h, w, padding)
    out = empty(n, layer.out_channels, *size)
    if residual is not None:
        residual = laid_out(residual, torch.channels_last)
    added = _address(residual) if layer.adds else 0
    sides = _kernels.Padding(*padding)
    layer.kernel.run(x.data_ptr(), n, h, w, c, sides, added, out.data_ptr(), torch.get_num_threads())
    return out if residual is None or layer.adds else out.add_(residual)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    groups: int,
    activation: str | None,
) -> Tensor:
    """`ops.conv2d` on checked arguments."""
    (n, c, h, w), (outputs, _, kh, kw) = x.shape, weight.shape
    if kh == kw == 1 and groups == 1 and stride == (1, 1):
        return Convolution(weight, bias, stride, dilation, groups, activation, c)(x, padding)
    if groups == c and (c > 1 or outputs == 1):
        return depthwise_conv2d(x, weight, bias, stride, padding, dilation, activation)
    # Here and below without a `Convolution` around the kernel, which is a third of what a small call takes.
    x, bias = laid_out(x, torch.channels_last), bias if bias is None else _dense(bias)
    weight, last = _filters(weight)
    window, addresses = _kernels.Window(kh, kw, *stride, *dilation), (weight.data_ptr(), last, _address(bias))
    out = empty(n, outputs, *_size(h, w, (kh, kw), stride, padding, dilation))
    threads = _threads(out, weight, _SHARED)
    image, sides = (x.data_ptr(), n, h, w, c), _kernels.Padding(*padding)
    _kernels.conv2d(
        *addresses, outputs, groups, window, activation or "", *image, sides, out.data_ptr(), threads
    )
    return out


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    activation: str | None,
) -> Tensor:
    """`ops.depthwise_conv2d` on checked arguments."""
    (n, c, h, w), (outputs, _, kh, kw) = x.shape, weight.shape
    if c == 1 and outputs > 1:
        return conv2d(x, weight, bias, stride, padding, dilation, 1, activation)
    x, weight, bias = laid_out(x, torch.channels_last), _dense(weight), bias if bias is None else _dense(bias)
    window, addresses = _kernels.Window(kh, kw, *stride, *dilation), (weight.data_ptr(), _address(bias))
    kernel = _kernels.Depthwise(*addresses, c, outputs // c, window, activation or "")
    out = empty(n, outputs, *_size(h, w, (kh, kw), stride, padding, dilation))
    threads, sides = _threads(out, weight, _SHARED), _kernels.Padding(*padding)
    kernel.run(x.data_ptr(), n, h, w, c, sides, out.data_ptr(), threads)
    return out


def pointwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, residual: Tensor | None
) -> Tensor:
    """`ops.pointwise_conv2d` on checked arguments."""
    (n, c, h, w), outputs = x.shape, weight.shape[0]
    x, weight, bias = laid_out(x, torch.channels_last), _dense(weight), bias if bias is None else _dense(bias)
    added = residual if residual is None else laid_out(residual, torch.channels_last)
    out, addresses = empty(n, outputs, h, w), (weight.data_ptr(), _address(bias))
    threads = _threads(out, weight, _SHARED_POINTWISE)
    kernel = _kernels.Pointwise(*addresses, c, outputs, activation or "", threads)
    kernel.run(x.data_ptr(), n * h * w, _address(added), out.data_ptr(), threads)
    return out


def separable_conv2d(
    x: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    depthwise_bias: Tensor | None,
    pointwise_bias: Tensor | None,
    stride: Pair,
    padding: Sides,
    dilation: Pair,
    depthwise_activation: str | None,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """`ops.separable_conv2d` on checked arguments."""
    packed = Separable(
        depthwise_weight,
        pointwise_weight,
        depthwise_bias,
        pointwise_bias,
        stride,
        dilation,
        depthwise_activation,
        activation,
        x.shape[1],
    )
    return packed(x, padding, residual)


def _threads(out: Tensor, weight: Tensor, shared: int) -> int:
    """As many threads as PyTorch has, or one where fewer than `shared` multiplications make `out`."""
    threads = torch.get_num_threads()
    if threads == 1 or _forced or out.numel() * (weight.numel() // weight.shape[0]) >= shared:
        return threads
    return 1


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_contiguous() else tensor.detach().contiguous()


def _filters(weight: Tensor) -> tuple[Tensor, bool]:
    """The weights of a standard convolution, dense, and whether their channels are last in memory."""
    if weight.is_contiguous():
        return weight, False
    if weight.is_contiguous(memory_format=torch.channels_last):
        return weight, True
    return weight.detach().contiguous(), False


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def empty(n: int, c: int, h: int, w: int) -> Tensor:
    """Room for an image, whatever the default dtype and device are."""
    # `torch.empty` in that memory format takes 1.7 µs, this 1.1.
    return torch.empty_strided((n, c, h, w), (h * w * c, 1, w * c, c), dtype=torch.float32, device=_CPU)


def _output_size(packed: Convolution | Separable | Inverted, height: int, width: int, padding: Sides) -> Pair:
    return _size(height, width, packed.kernel_size, packed.stride, padding, packed.dilation)


def _size(height: int, width: int, kernel_size: Pair, stride: Pair, padding: Sides, dilation: Pair) -> Pair:
    left, right, top, bottom = padding
    (kh, kw), (sh, sw), (dh, dw) = kernel_size, stride, dilation
    tall, wide = height + top + bottom - dh * (kh - 1) - 1, width + left + right - dw * (kw - 1) - 1
    return tall // sh + 1, wide // sw + 1
