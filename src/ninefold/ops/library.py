"""The operators as PyTorch knows them, `torch.ops.ninefold.*`: schemas, backends, fakes, gradients, autocast.

Functional, one for each fused block. Arguments are those that `ninefold.ops` has checked and resolved:
stride and dilation (h, w), padding (left, right, top, bottom). The result has the memory format of `x`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._subclasses.functional_tensor import FunctionalTensorMode

from ninefold.ops import backend, cpu, fallback, forward, gradients, layout
from ninefold.ops.layout import memory_format

_GEOMETRY = "SymInt[2] stride, SymInt[4] padding, SymInt[2] dilation"
_LIBRARY = torch.library.Library("ninefold", "DEF")


def _conv2d_fake(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str | None,
) -> torch.Tensor:
    return _empty(x, layout.output_shape(x.shape, weight.shape, stride, padding, dilation))


def _depthwise_conv2d_fake(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str | None,
) -> torch.Tensor:
    return _empty(x, layout.output_shape(x.shape, weight.shape, stride, padding, dilation))


def _pointwise_conv2d_fake(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str | None,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    return _empty(x, (x.shape[0], weight.shape[0], x.shape[2], x.shape[3]))


def _separable_conv2d_fake(
    x: torch.Tensor,
    depthwise_weight: torch.Tensor,
    pointwise_weight: torch.Tensor,
    depthwise_bias: torch.Tensor | None,
    pointwise_bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    depthwise_activation: str | None,
    activation: str | None,
    residual: torch.Tensor | None,
) -> torch.Tensor:
    batch, _, height, width = layout.output_shape(x.shape, depthwise_weight.shape, stride, padding, dilation)
    return _empty(x, (batch, pointwise_weight.shape[0], height, width))


def _convolution_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needs_x: bool,
    needs_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    kernels = backend.for_call(x, weight, grad.shape[1] * grad.shape[2] * grad.shape[3])
    run = gradients.convolution
    if kernels and grad.dtype is x.dtype and grad.layout is torch.strided:
        run = backend.backward_passes(x).convolution_backward
    needed = (needs_x, needs_weight, False)
    grad_x, grad_weight, _ = run(grad, x, weight, None, stride, padding, dilation, groups, needed)
    return (
        x.new_empty(0) if grad_x is None else cpu.like(x, grad_x),
        x.new_empty(0) if grad_weight is None else grad_weight.contiguous(),
    )


def _convolution_backward_fake(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    needs_x: bool,
    needs_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.empty_like(x, memory_format=memory_format(x)) if needs_x else x.new_empty(0),
        weight.new_empty(weight.shape) if needs_weight else x.new_empty(0),
    )


def _activation_backward(grad: torch.Tensor, before: torch.Tensor, activation: str) -> torch.Tensor:
    kernels = backend.for_call(before, before)
    if kernels and not backend.on_gpu(before) and grad.dtype is before.dtype:
        passes = backend.backward_passes(before)
        if passes.slopes(before.shape[1], activation):
            return cpu.like(before, passes.slope(grad, before, activation))
    with torch.no_grad():
        made = gradients.ACTIVATIONS[activation](grad, before)
    return made.contiguous(memory_format=memory_format(before))


def _activation_backward_fake(grad: torch.Tensor, before: torch.Tensor, activation: str) -> torch.Tensor:
    return torch.empty_like(before, memory_format=memory_format(before))


def _separable_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    depthwise_weight: torch.Tensor,
    pointwise_weight: torch.Tensor,
    depthwise_bias: torch.Tensor | None,
    pointwise_bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    depthwise_activation: str | None,
    activation: str | None,
    needed: Sequence[bool],
) -> tuple[torch.Tensor, ...]:
    made = backend.backward_passes(x).separable_backward(
        *(grad, x, depthwise_weight, pointwise_weight, depthwise_bias, pointwise_bias),
        *(stride, padding, dilation, depthwise_activation, activation, needed),
    )
    along, *rest = made
    others = (x.new_empty(0) if gradient is None else gradient.contiguous() for gradient in rest)
    return x.new_empty(0) if along is None else cpu.like(x, along), *others


def _separable_backward_fake(
    grad: torch.Tensor,
    x: torch.Tensor,
    depthwise_weight: torch.Tensor,
    pointwise_weight: torch.Tensor,
    depthwise_bias: torch.Tensor | None,
    pointwise_bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    depthwise_activation: str | None,
    activation: str | None,
    needed: Sequence[bool],
) -> tuple[torch.Tensor, ...]:
    shapes = (depthwise_weight.shape, pointwise_weight.shape, x.shape[1:2], pointwise_weight.shape[:1])
    along = torch.empty_like(x, memory_format=memory_format(x)) if needed[0] else x.new_empty(0)
    others = (x.new_empty(shape if need else 0) for shape, need in zip(shapes, needed[1:], strict=True))
    return along, *others


def _empty(x: torch.Tensor, shape: tuple[int, int, int, int]) -> torch.Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


def _seen_through(name: str, run: Callable[..., Any]) -> None:
    """Let compilers trace into an operator where Triton's kernels run: what `torch.library.triton_op` does.

    The graph then has the kernels themselves (`launch.run` wraps them). Shapes that are symbols leave the
    operator whole, for block sizes depend on them.
    """

    def dispatch(mode: Any, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        fixed = all(type(size) is int for tensor in tensors for size in tensor.shape)
        if fixed and backend.traceable(tensors[0]):
            # Imported here: it takes a second.
            from torch.export._trace import custom_triton_ops_decomposition_disabled

            if not custom_triton_ops_decomposition_disabled():
                with mode:
                    return run(*args, **(kwargs or {}))
        return mode.__torch_dispatch__(op, types, args, kwargs or {})

    torch.library.register_torch_dispatch(f"ninefold::{name}", FunctionalTensorMode, dispatch, lib=_LIBRARY)


_LIBRARY.define(
    f"convolution_backward(Tensor grad, Tensor x, Tensor weight, {_GEOMETRY}, SymInt groups, bool needs_x, "
    "bool needs_weight) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.impl("convolution_backward", _convolution_backward, "CompositeExplicitAutograd")
torch.library.register_fake("ninefold::convolution_backward", _convolution_backward_fake, lib=_LIBRARY)
_LIBRARY.define(
    "activation_backward(Tensor grad, Tensor before, str activation) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.impl("activation_backward", _activation_backward, "CompositeExplicitAutograd")
torch.library.register_fake("ninefold::activation_backward", _activation_backward_fake, lib=_LIBRARY)
_LIBRARY.define(
    "separable_backward(Tensor grad, Tensor x, Tensor depthwise_weight, Tensor pointwise_weight, "
    f"Tensor? depthwise_bias, Tensor? pointwise_bias, {_GEOMETRY}, str? depthwise_activation, "
    "str? activation, bool[5] needed) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.impl("separable_backward", _separable_backward, "CompositeExplicitAutograd")
torch.library.register_fake("ninefold::separable_backward", _separable_backward_fake, lib=_LIBRARY)
_seen_through("convolution_backward", _convolution_backward)
_seen_through("separable_backward", _separable_backward)


def _register(
    schema: str,
    run: Callable[..., torch.Tensor],
    fake: Callable[..., torch.Tensor],
    save: Callable[..., None],
    backward: Callable[..., gradients.Gradients],
    autocast: Callable[..., torch.Tensor],
) -> torch._ops.OpOverload:
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    # Under autocast PyTorch's own operators choose the dtypes, each as it always does.
    for key in ("AutocastCPU", "AutocastCUDA"):
        _LIBRARY.impl(name, autocast, key)
    torch.library.register_fake(f"ninefold::{name}", fake, lib=_LIBRARY)
    torch.library.register_autograd(f"ninefold::{name}", backward, setup_context=save, lib=_LIBRARY)
    _seen_through(name, run)
    operator: torch._ops.OpOverload = getattr(torch.ops.ninefold, name).default
    return operator


conv2d = _register(
    f"conv2d(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}, SymInt groups, str? activation) -> Tensor",
    forward.conv2d,
    _conv2d_fake,
    gradients.save_conv2d,
    gradients.conv2d,
    fallback.conv2d,
)
depthwise_conv2d = _register(
    f"depthwise_conv2d(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}, str? activation) -> Tensor",
    forward.depthwise_conv2d,
    _depthwise_conv2d_fake,
    gradients.save_depthwise_conv2d,
    gradients.depthwise_conv2d,
    fallback.depthwise_conv2d,
)
pointwise_conv2d = _register(
    "pointwise_conv2d(Tensor x, Tensor weight, Tensor? bias, str? activation, Tensor? residual) -> Tensor",
    forward.pointwise_conv2d,
    _pointwise_conv2d_fake,
    gradients.save_pointwise_conv2d,
    gradients.pointwise_conv2d,
    fallback.pointwise_conv2d,
)
separable_conv2d = _register(
    "separable_conv2d(Tensor x, Tensor depthwise_weight, Tensor pointwise_weight, Tensor? depthwise_bias, "
    f"Tensor? pointwise_bias, {_GEOMETRY}, str? depthwise_activation, str? activation, Tensor? residual) "
    "-> Tensor",
    forward.separable_conv2d,
    _separable_conv2d_fake,
    gradients.save_separable_conv2d,
    gradients.separable_conv2d,
    fallback.separable_conv2d,
)
