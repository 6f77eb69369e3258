"""A stretch of a network as one call into the extension: `kernels/runtime/plan.h`, seen from PyTorch.

A sequence is a list of steps over numbered values: its inputs come first, then each step's result. Images are
(batch, C, H, W); a value that a network flattens to (batch, C) is an image of one pixel here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ninefold.ops import backend, cpu, fallback
from ninefold.ops.packed import Conv2d, Inverted, Packed, Separable

Sizes = tuple[int, int, int, int]


@dataclass(frozen=True)
class Step:
    """One step: what it does (a key of STEPS, "layer", or an activation's name) to which values.

    A layer takes an image and perhaps a residual. `options` are the numbers and tensors that a step of STEPS
    takes beside its values.
    """

    what: str
    operands: tuple[int, ...]
    layer: Packed | None = None
    options: tuple[Any, ...] = ()


def channel_norm(x: Tensor, gain: Tensor, offset: Tensor, epsilon: float) -> Tensor:
    """Normalise the channels of each pixel of x (batch, C, H, W); `gain` and `offset` are (C,)."""
    return functional.layer_norm(x.permute(0, 2, 3, 1), gain.shape, gain, offset, epsilon).permute(0, 3, 1, 2)


# What PyTorch computes for a step: values first, options after them.
STEPS: dict[str, Callable[..., Tensor]] = {
    "add": lambda a, b: a + b,  # two images of one shape
    "scale": lambda x, gate: x * gate,  # an image, and a gate per channel
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "layer_norm": channel_norm,
    "concatenation": lambda *images: torch.cat(images, 1),
    "channels": lambda x, first, last: x[:, first:last],
    "shuffle": lambda x, groups: functional.channel_shuffle(x, groups),
    # Kernel size, stride and padding as pairs; whether sizes round up.
    "largest": lambda x, kernel, stride, padding, ceil, dilation: functional.max_pool2d(
        x, kernel, stride, padding, dilation, ceil_mode=ceil
    ),
    # And whether the padding counts, the divisor where it is told.
    "average": lambda x, kernel, stride, padding, ceil, counted, divisor: functional.avg_pool2d(
        x, kernel, stride, padding, ceil, counted, divisor
    ),
}


# How many values each takes, and how many options.
_TAKEN: dict[str, tuple[Container[int], int]] = {
    **{"add": ((2,), 0), "scale": ((2,), 0), "mean": ((1,), 0), "layer_norm": ((1,), 3)},
    **{"concatenation": (range(1, 2**31), 0), "channels": ((1,), 2), "shuffle": ((1,), 1)},
    **{"largest": ((1,), 5), "average": ((1,), 6)},
}


class Sequence(nn.Module):
    """Steps that run in one call; their values share one arena, whose memory is used again at each call.

    Takes `inputs` tensors of four or two dimensions and returns a tuple: for each of `outputs` (a value's
    number, and its number of dimensions) a tensor. Safe to call from several threads.
    """

    def __init__(self, inputs: int, steps: tuple[Step, ...], outputs: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.inputs, self.steps, self.outputs = inputs, steps, outputs
        # A value may leave twice, as an image and flattened: it is computed once.
        self.values = sorted({value for value, _ in outputs})
        self.layers = nn.ModuleList(step.layer for step in steps if step.layer is not None)
        self._plan: Any = None
        self._numbers: list[int] = []  # of each step's value, in the plan
        self._shapes: dict[tuple[Sizes, ...], list[Sizes]] = {}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run all steps."""
        return self.run(inputs) if self.in_extension(*inputs) else self.step_by_step(*inputs)

    def in_extension(self, *inputs: Tensor) -> bool:
        """Whether the extension takes these inputs, or PyTorch's operators do the work."""
        return not any(_goes_to_pytorch(x) for x in inputs)

    def run(self, inputs: tuple[Tensor, ...], *, poison: bool = False) -> tuple[Tensor, ...]:
        """Run all steps in the extension; `poison` fills freed memory with NaN, a test of the arena."""
        dense, sizes, results = self._memory(inputs)
        self.plan.run(
            [x.data_ptr() for x in dense],
            list(sizes),
            [out.data_ptr() for out in results.values()],
            torch.get_num_threads(),
            poison,
        )
        return self._leaving(results)

    def for_sizes(self, shape: torch.Size) -> Callable[[Tensor], Tensor] | None:
        """What `run` does for one image of this shape, without asking again what it knows; or None.

        For one input and one output, a dense float32 tensor on the CPU, as the caller makes sure. It asks
        PyTorch for as little as it can: `InferenceModel.__call__` says why.
        """
        if self.inputs != 1 or len(self.outputs) != 1:
            return None
        sizes = [_sizes(torch.empty(shape, device="meta"))]
        ((n, h, w, c),), ((_, dimensions),) = self._results(sizes), self.outputs
        run, threads = self.plan.run, torch.get_num_threads
        if dimensions == 2 and h * w != 1:
            return None
        image = len(shape) == 4
        # An older word for `new_empty`, which takes 65 µs after a network, this 38.
        new = torch.empty((), dtype=torch.float32, device="cpu").new

        def call(x: Tensor) -> Tensor:
            x = cpu.laid_out(x, torch.channels_last) if image else x.contiguous()
            out: Tensor = new(n, c) if dimensions == 2 else cpu.empty(n, c, h, w)
            run([x.data_ptr()], sizes, [out.data_ptr()], threads(), False)
            return out

        return call

    def timed(self, *inputs: Tensor) -> tuple[tuple[Tensor, ...], list[float]]:
        """Run all steps, wherever they run; the results, and the seconds that each step took."""
        if not self.in_extension(*inputs):
            return self._step_by_step(inputs)
        plan = self.plan
        dense, sizes, results = self._memory(inputs)
        seconds = plan.timed(
            [x.data_ptr() for x in dense],
            list(sizes),
            [out.data_ptr() for out in results.values()],
            torch.get_num_threads(),
        )
        # A step may be several of the extension's: where each begins and ends.
        ends = [number - self.inputs + 1 for number in self._numbers]
        spans = zip([0, *ends], ends, strict=False)
        return self._leaving(results), [sum(seconds[first:last]) for first, last in spans]

    def _memory(
        self, inputs: tuple[Tensor, ...]
    ) -> tuple[list[Tensor], tuple[Sizes, ...], dict[int, Tensor]]:
        """The inputs as the extension wants them, their sizes, and room for each value that leaves."""
        dense = [_dense(x) for x in inputs]
        sizes = tuple(_sizes(x) for x in dense)
        shapes = self._shapes.get(sizes)
        if shapes is None:
            shapes = self._shapes[sizes] = self._results(list(sizes))
        results = {
            value: cpu.empty(n, c, h, w) for value, (n, h, w, c) in zip(self.values, shapes, strict=True)
        }
        return dense, sizes, results

    def _results(self, sizes: list[Sizes]) -> list[Sizes]:
        """What leaves, for inputs of these sizes; ValueError where a layer cannot take its image."""
        plan, channels = self.plan, [each[3] for each in sizes]
        for step in self.steps[: len(self.steps) if len(sizes) == self.inputs else 0]:
            given = channels[step.operands[0]]
            if step.layer is not None:
                if given != step.layer.in_channels:
                    wanted = step.layer.in_channels
                    raise ValueError(f"a layer of {wanted} channels cannot take an image of {given}")
                channels.append(step.layer.kernel.out_channels)
            elif step.what == "concatenation":
                channels.append(sum(channels[operand] for operand in step.operands))
            else:
                channels.append(step.options[1] - step.options[0] if step.what == "channels" else given)
        found: list[Sizes] = plan.shapes(sizes)
        return found

    def _leaving(self, results: dict[int, Tensor]) -> tuple[Tensor, ...]:
        return tuple(
            results[value] if dimensions == 4 else results[value].flatten(1)
            for value, dimensions in self.outputs
        )

    def step_by_step(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The same, one step at a time: for inputs that the extension does not take."""
        return self._step_by_step(inputs)[0]

    def _step_by_step(self, inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], list[float]]:
        values = [x if x.dim() == 4 else x[:, :, None, None] for x in inputs]
        seconds = []
        for step in self.steps:
            compute = step.layer or STEPS.get(step.what) or fallback.ACTIVATIONS[step.what]
            start = time.perf_counter()
            values.append(compute(*(values[operand] for operand in step.operands), *step.options))
            seconds.append(time.perf_counter() - start)
        leaving = (values[v] if dimensions == 4 else values[v].flatten(1) for v, dimensions in self.outputs)
        return tuple(leaving), seconds

    @property
    def plan(self) -> Any:
        """The extension's form, made at the first use: it belongs to one instruction set."""
        if self._plan is None:
            self._check()
            plan = cpu._kernels.Plan(self.inputs)
            numbers = list(range(self.inputs))
            inside = self._gates_inside()
            for value, step in enumerate(self.steps, self.inputs):
                if value in inside:
                    numbers.append(numbers[-1])
                    continue
                gate = None
                operands = list(step.operands)
                if operands and operands[0] in inside:
                    operands[0], gate = inside[operands[0]]
                by = None if gate is None else numbers[gate]
                try:
                    numbers.append(_add(plan, step, [numbers[v] for v in operands], by))
                except (TypeError, AttributeError) as error:
                    words = str(error).splitlines()[0]
                    raise ValueError(
                        f"`steps` must be as they were made, got {step.what!r}: {words}"
                    ) from None
            plan.finish([numbers[value] for value in self.values])
            self._plan, self._numbers = plan, numbers[self.inputs :]
        return self._plan

    def _check(self) -> None:
        """Raise ValueError for steps that are none, or out of order: a saved sequence may be altered."""
        if type(self.inputs) is not int or self.inputs < 1:
            raise ValueError(f"`inputs` must be at least 1, got {self.inputs!r}")
        for value, step in enumerate(self.steps, self.inputs):
            operands, options = _taken(step)
            if len(step.operands) not in operands or len(step.options) != options:
                got = f"{len(step.operands)} values and {len(step.options)} options"
                raise ValueError(f"`steps` must take what {step.what!r} takes, got {got}")
            if any(isinstance(o, Tensor) and o.dtype is not torch.float32 for o in step.options):
                raise ValueError(f"`steps` must have options of float32, got others for {step.what!r}")
            if any(type(v) is not int or not 0 <= v < value for v in step.operands):
                raise ValueError(f"`steps` must use earlier values, got {step.operands} in step {value}")
        last = self.inputs + len(self.steps)
        for value, dimensions in self.outputs:
            if type(value) is not int or not self.inputs <= value < last or dimensions not in (2, 4):
                raise ValueError(
                    f"`outputs` must be values of steps, of 2 or 4 dimensions, got {self.outputs}"
                )
        if not self.outputs or self.values != sorted({value for value, _ in self.outputs}):
            raise ValueError(f"`values` must be those of the outputs, got {self.values}")

    def _gates_inside(self) -> dict[int, tuple[int, int]]:
        """Gated images that only a pointwise layer reads, and their image and gate: the layer applies it.

        It multiplies its weights, or a few pixels at a time, and spares a pass over the image.
        """
        users: dict[int, list[tuple[Step, int]]] = {}
        for step in self.steps:
            for place, operand in enumerate(step.operands):
                users.setdefault(operand, []).append((step, place))
        inside = {}
        for value, step in enumerate(self.steps, self.inputs):
            read = users.get(value, [])
            if step.what != "scale" or value in self.values or len(read) != 1:
                continue
            reader, place = read[0]
            if place == 0 and reader.layer is not None and _is_pointwise(reader.layer):
                inside[value] = (step.operands[0], step.operands[1])
        return inside

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plan": None, "_shapes": {}}


def _taken(step: Step) -> tuple[Container[int], int]:
    """How many values a step may take, and how many options."""
    if step.layer is not None:
        # The kernel first: it is made here or says what is wrong with the layer.
        known = step.what == "layer" and isinstance(step.layer, Packed) and step.layer.kernel is not None
        if known and takes(step.layer):
            return (1, 2), 0
    elif step.what in _TAKEN:
        return _TAKEN[step.what]
    elif step.what in fallback.ACTIVATIONS and step.what:
        return (1,), 0
    raise ValueError(f"`steps` must be steps that there are, got {step.what!r}")


def takes(layer: Packed) -> bool:
    """Whether a plan has a step for this layer: all but a pointwise convolution that pads."""
    return not (isinstance(layer, Conv2d) and layer.weight.shape[2:] == (1, 1) and any(layer.padding))


def _is_pointwise(layer: Packed) -> bool:
    return isinstance(layer, Conv2d) and isinstance(layer.kernel.kernel, cpu._kernels.Pointwise)


def _add(plan: Any, step: Step, operands: list[int], gate: int | None) -> int:
    if step.layer is None:
        if step.what == "concatenation":
            return int(plan.concatenation(operands))
        if step.what in ("largest", "average"):
            kernel, stride, (top, left), ceil, *rest = step.options
            dilation, more = (rest[0], ()) if step.what == "largest" else ((1, 1), (rest[0], rest[1] or 0))
            window = cpu._kernels.Window(*kernel, *stride, *dilation)
            sides = cpu._kernels.Padding(left, left, top, top)
            return int(getattr(plan, step.what)(window, sides, ceil, *more, *operands))
        if step.what in STEPS:
            options = [o.tolist() if isinstance(o, Tensor) else o for o in step.options]
            return int(getattr(plan, step.what)(*options, *operands))
        return int(plan.activation(step.what, *operands))
    kernel, padding = step.layer.kernel.kernel, cpu._kernels.Padding(*step.layer.padding)
    x, residual = operands[0], operands[1] if len(operands) > 1 else None
    if isinstance(step.layer, Separable):
        return int(plan.separable(kernel, padding, x, residual))
    if isinstance(step.layer, Inverted):
        if step.layer.projection is not None:
            return int(plan.inverted(kernel, padding, x, residual))
        out = int(plan.inverted(kernel, padding, x, None))
        return out if residual is None else int(plan.add(out, residual))
    if isinstance(kernel, cpu._kernels.Pointwise):
        return int(plan.pointwise(kernel, x, residual, gate))
    make = plan.depthwise if isinstance(kernel, cpu._kernels.Depthwise) else plan.conv2d
    out = int(make(kernel, padding, x))
    return out if residual is None else int(plan.add(out, residual))


def _goes_to_pytorch(x: Tensor) -> bool:
    return x.numel() == 0 or backend.for_call(x, x) is None


def _dense(x: Tensor) -> Tensor:
    return cpu.laid_out(x, torch.channels_last) if x.dim() == 4 else x.contiguous()


def _sizes(x: Tensor) -> Sizes:
    if x.dim() == 2:
        return x.shape[0], 1, 1, x.shape[1]
    n, c, h, w = x.shape
    return n, h, w, c
