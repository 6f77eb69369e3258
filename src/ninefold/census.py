"""Every convolution a network runs on an example, by the operators it calls, whatever its classes are.

A depthwise convolution whose output reaches a pointwise one through nothing but elementwise work (batch-norm,
activation, a gate) makes a separable pair. "The same network, standard" replaces each pair by one standard
convolution with the pair's kernel, input and output channels, and leaves the rest as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .operators import Operator, describe
from .shape import ConvShape

_aten = torch.ops.aten


@dataclass(frozen=True)
class Layer:
    """One call of a layer; `kind` is standard, depthwise, pointwise or grouped (convolutions), or linear.

    A linear layer counts as a pointwise convolution of one pixel. `pair` is the position in the census of a
    depthwise layer's pointwise partner, or the other way round.
    """

    name: str
    kind: str
    shape: ConvShape
    pair: int | None = None


@dataclass(frozen=True)
class Census:
    """The layers in the order they ran, and every operator that was called, with what it costs.

    `uncounted` has the names of the convolutions that are no layer here, because they are not two-dimensional
    or are transposed; their cost stands in `operators`.
    """

    layers: tuple[Layer, ...]
    uncounted: tuple[str, ...] = ()
    operators: tuple[Operator, ...] = ()

    @property
    def pairs(self) -> tuple[tuple[Layer, Layer], ...]:
        """The separable convolutions: (depthwise, pointwise)."""
        return tuple(
            (layer, self.layers[layer.pair])
            for layer in self.layers
            if layer.kind == "depthwise" and layer.pair is not None
        )

    @property
    def multiplications(self) -> int:
        """Multiplications as the network is built, exactly, for the batch of the example."""
        return sum(layer.shape.multiplications for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Weights of the counted layers, each once however often it is used; biases and norms not counted."""
        return _parameters((layer.name, layer.shape) for layer in self.layers)

    @property
    def separable_multiplications(self) -> int:
        """Multiplications inside separable pairs."""
        return sum(stage.shape.multiplications for pair in self.pairs for stage in pair)

    @property
    def standard_multiplications(self) -> int:
        """Multiplications of the same network with standard convolutions."""
        return sum(shape.multiplications for _, shape in self._as_standard())

    @property
    def standard_parameters(self) -> int:
        """Weights of the same network with standard convolutions."""
        return _parameters(self._as_standard())

    def _as_standard(self) -> Iterator[tuple[str, ConvShape]]:
        for layer in self.layers:
            if layer.pair is None:
                yield layer.name, layer.shape
            elif layer.kind == "depthwise":
                yield layer.name, standard_of(layer, self.layers[layer.pair])


def standard_of(depthwise: Layer, pointwise: Layer) -> ConvShape:
    """The standard convolution that a separable pair stands for."""
    return replace(depthwise.shape, out_channels=pointwise.shape.out_channels, groups=1)


def take(model: torch.nn.Module, example_inputs: tuple[Any, ...]) -> Census:
    """Run `model` once on `example_inputs`, in eval mode and without gradients, and count what it calls.

    The model is left as it was. Raises TypeError for what is not a module or not a tuple.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"`model` must be an nn.Module, got {type(model).__name__}")
    if not isinstance(example_inputs, tuple):
        raise TypeError(f"`example_inputs` must be a tuple, got {type(example_inputs).__name__}")
    counter = _Counter(model)
    with in_eval(model), torch.no_grad(), _callers(model, counter.callers), counter:
        model(*example_inputs)
    return Census(tuple(counter.layers), tuple(counter.uncounted), tuple(counter.operators))


def _parameters(layers: Iterable[tuple[str, ConvShape]]) -> int:
    return sum(shape.parameters for shape in dict(layers).values())


@contextmanager
def _callers(model: torch.nn.Module, callers: list[str]) -> Iterator[None]:
    """Keep in `callers` the names of the modules that are running, innermost last."""
    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: callers.append(name)))
        hooks.append(module.register_forward_hook(lambda *_: callers.pop() and None, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def in_eval(model: torch.nn.Module) -> Iterator[None]:
    """Put `model` into eval mode, and each of its modules back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class _Counter(TorchDispatchMode):
    """Sees every operator; follows each depthwise output through elementwise work to whoever takes it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self.operators: list[Operator] = []
        self.callers: list[str] = []
        self.uncounted: list[str] = []
        self._names = {weight.data_ptr(): name for name, weight in model.named_parameters()}
        self._source: dict[int, int] = {}  # id of a tensor -> position of the depthwise layer it comes from
        self._alive: list[torch.Tensor] = []  # what is in _source must keep its id

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        before = len(self.layers)
        if func is _aten.convolution.default:
            self._convolution(result, *args[:9])
        elif func in (_aten.addmm.default, _aten.mm.default):
            self._linear(*args[-2:])
        else:
            self._elementwise(args, result)
        self.operators.append(
            describe(
                func,
                args,
                kwargs or {},
                result,
                weights=self._names,
                module=next((name for name in reversed(self.callers) if name), ""),
                layer=before if len(self.layers) > before else None,
            )
        )
        return result

    def _convolution(
        self,
        result: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        transposed: bool,
        output_padding: list[int],
        groups: int,
    ) -> None:
        name = self._name(weight)
        if transposed or x.dim() != 4:
            self.uncounted.append(name)
            return
        shape = ConvShape.standard(
            x.shape,
            weight.shape,
            stride=tuple(stride),
            padding=tuple(padding),
            dilation=tuple(dilation),
            groups=groups,
        )
        position = len(self.layers)
        partner = None
        if shape.is_pointwise:
            partner = self._source.get(id(x))
            if partner is not None and self.layers[partner].pair is None:
                self.layers[partner] = replace(self.layers[partner], pair=position)
            else:
                partner = None
        self.layers.append(Layer(name, _kind(shape), shape, partner))
        if self.layers[-1].kind == "depthwise":
            self._follow(result, position)

    def _linear(self, x: torch.Tensor, weight: torch.Tensor) -> None:
        if weight.data_ptr() not in self._names:
            return
        rows, (features, outputs) = x.shape[0], weight.shape
        shape = ConvShape(
            in_channels=features, out_channels=outputs, kernel_size=(1, 1), input_size=(1, 1), batch=rows
        )
        self.layers.append(Layer(self._name(weight), "linear", shape))

    def _elementwise(self, args: tuple[Any, ...], result: Any) -> None:
        output = result[0] if isinstance(result, tuple | list) and result else result
        if not isinstance(output, torch.Tensor):
            return
        inputs = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.shape == output.shape]
        sources = {self._source[id(tensor)] for tensor in inputs if id(tensor) in self._source}
        if len(sources) == 1:
            self._follow(output, sources.pop())

    def _follow(self, tensor: torch.Tensor, position: int) -> None:
        self._source[id(tensor)] = position
        self._alive.append(tensor)

    def _name(self, weight: torch.Tensor) -> str:
        name = self._names.get(weight.data_ptr(), f"layer {len(self.layers)}")
        return name.removesuffix(".weight")


def _kind(shape: ConvShape) -> str:
    if shape.groups > 1:
        return "depthwise" if shape.is_depthwise else "grouped"
    return "pointwise" if shape.is_pointwise else "standard"
