"""What if: each standard convolution as a separable one, each separable pair as the standard one it replaced.

Counts are exact. Times are those of the layer alone, without its neighbours: both forms on the same input, in
Ninefold and in PyTorch, in turns in one run, the best of its rounds: what the layer can do. Layers of one
shape are timed once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import conv2d, pad

from ninefold import census, cost, measure
from ninefold.ops import packed
from ninefold.reporting.data import Machine
from ninefold.reporting.facts import Alone, Swap, limit
from ninefold.shape import ConvShape, numel

_ROUNDS = (5, 200)


@dataclass(frozen=True)
class Candidate:
    """A layer that is built as one of the two, `built`, and could be the other."""

    name: str
    built: str
    standard: ConvShape
    depthwise: ConvShape
    pointwise: ConvShape

    @property
    def key(self) -> tuple[ConvShape, ConvShape]:
        """What decides the time: layers with the same key are timed once."""
        return self.standard, self.depthwise


def candidates(counted: census.Census) -> tuple[Candidate, ...]:
    """The separable pairs, and the standard convolutions that would need less as a pair, in their order."""
    found = []
    for layer in counted.layers:
        shape = layer.shape
        if layer.kind == "depthwise" and layer.pair is not None:
            partner = counted.layers[layer.pair]
            name = f"{layer.name} + {partner.name}"
            standard = census.standard_of(layer, partner)
            found.append(Candidate(name, "separable", standard, shape, partner.shape))
        elif layer.kind == "standard" and numel(shape.kernel_size) > 1:
            depthwise = replace(shape, out_channels=shape.in_channels, groups=shape.in_channels)
            pointwise = ConvShape(
                in_channels=shape.in_channels,
                out_channels=shape.out_channels,
                kernel_size=(1, 1),
                input_size=shape.output_size,
                batch=shape.batch,
            )
            if depthwise.multiplications + pointwise.multiplications < shape.multiplications:
                found.append(Candidate(layer.name, "standard", shape, depthwise, pointwise))
    return tuple(found)


def measured(
    found: tuple[Candidate, ...], machine: Machine, *, seconds: float, progress: Callable[[float], None]
) -> tuple[Swap, ...]:
    """Each candidate counted and timed, for about `seconds` in all; what saves most comes first."""
    distinct = {candidate.key: candidate for candidate in found}
    times = {}
    for done, (key, candidate) in enumerate(distinct.items()):
        progress(done / len(distinct))
        times[key] = _alone(candidate, seconds / len(distinct))
    swaps = [_swap(candidate, *times[candidate.key], machine) for candidate in found]
    return tuple(sorted(swaps, key=lambda swap: -swap.saved))


def _swap(candidate: Candidate, ninefold: Alone, pytorch: Alone, machine: Machine) -> Swap:
    standard, first, last = candidate.standard, candidate.depthwise, candidate.pointwise
    separable = first.multiplications + last.multiplications
    limits = {
        "standard": limit(machine, standard.multiplications, _bytes(standard, standard, standard.parameters)),
        "separable": limit(machine, separable, _bytes(first, last, first.parameters + last.parameters)),
    }
    other = "separable" if candidate.built == "standard" else "standard"
    # As near its limit as the one that is built comes to its own.
    predicted = limits[other].seconds * getattr(ninefold, candidate.built) / limits[candidate.built].seconds
    kernel, size = ("×".join(map(str, pair)) for pair in (standard.kernel_size, standard.output_size))
    return Swap(
        name=candidate.name,
        what=f"{kernel}, {standard.in_channels} → {standard.out_channels}, {size}",
        built=candidate.built,
        standard_multiplications=standard.batch * cost.of(standard).multiplications,
        separable_multiplications=separable,
        standard_parameters=standard.parameters,
        separable_parameters=first.parameters + last.parameters,
        predicted=predicted,
        ninefold=ninefold,
        pytorch=pytorch,
    )


def _bytes(first: ConvShape, last: ConvShape, weights: int) -> int:
    return 4 * (numel(first.input_shape) + weights + numel(last.output_shape))


def _alone(candidate: Candidate, seconds: float) -> tuple[Alone, Alone]:
    """Seconds in Ninefold and in PyTorch, channels-last, with random numbers."""
    standard, first, last = candidate.standard, candidate.depthwise, candidate.pointwise
    generator = torch.Generator().manual_seed(0)
    x, whole, filters, matrix = (
        torch.randn(shape, dtype=torch.float32, generator=generator).contiguous(
            memory_format=torch.channels_last
        )
        for shape in (standard.input_shape, standard.weight_shape, first.weight_shape, last.weight_shape)
    )
    kernel = packed.Conv2d(
        whole, None, stride=standard.stride, padding=standard.padding, dilation=standard.dilation
    )
    pair = packed.Separable(
        filters,
        matrix,
        None,
        None,
        stride=first.stride,
        padding=first.padding,
        dilation=first.dilation,
        multiplier=first.multiplier,
    )
    left, right, top, bottom = standard.padding
    padding = (top, left) if (left, top) == (right, bottom) else 0
    image = x if padding or not any(standard.padding) else pad(x, standard.padding)

    def plain_pair() -> torch.Tensor:
        middle = conv2d(image, filters, None, first.stride, padding, first.dilation, first.groups)
        return conv2d(middle, matrix)

    with torch.inference_mode():
        taken = measure.interleaved(
            {
                "standard": lambda: kernel(x),
                "separable": lambda: pair(x),
                "plain standard": lambda: conv2d(
                    image, whole, None, standard.stride, padding, standard.dilation, standard.groups
                ),
                "plain separable": plain_pair,
            },
            seconds=seconds,
            rounds=_ROUNDS,
        )
    return (
        Alone(taken["standard"].best, taken["separable"].best),
        Alone(taken["plain standard"].best, taken["plain separable"].best),
    )
