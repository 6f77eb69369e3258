"""What a conversion saves in time: each layer alone, and the network as a whole, on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ninefold import measure
from ninefold.census import in_eval
from ninefold.conversion.result import Conversion, Layer
from ninefold.conversion.survey import survey
from ninefold.inference import for_inference

_ROUNDS = (5, 500)
ORIGINAL, CONVERTED = "original", "converted"


def timed(
    conversion: Conversion,
    original: nn.Module,
    example_inputs: Any,
    *,
    threads: int | None = None,
    seconds: float = 3.0,
    progress: Callable[[str, float], None] | None = None,
) -> Conversion:
    """`conversion` with its times: before and after, in turns, medians in milliseconds.

    Each converted layer alone through `for_inference`, for one image, layers of one shape once; the whole
    network on `example_inputs` in PyTorch, in PyTorch channels-last and through `for_inference`. The layers
    share `seconds`, the networks take as much again.
    """
    inputs = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    tell = progress or (lambda text, share: None)
    with in_eval(original), in_eval(conversion.model), torch.no_grad():
        layers = _layers(conversion, original, inputs, threads, seconds, tell)
        tell("timing the networks", 1.0)
        whole = measure.interleaved(
            {
                **_ways(original, ORIGINAL, inputs),
                **_ways(conversion.model, CONVERTED, inputs),
            },
            threads=threads,
            seconds=seconds,
            rounds=_ROUNDS,
        )
    times = {timing.name: 1e3 * timing.median for timing in whole.timings}
    return replace(conversion, layers=layers, milliseconds=times)


def _layers(
    conversion: Conversion,
    original: nn.Module,
    inputs: tuple[Any, ...],
    threads: int | None,
    seconds: float,
    tell: Callable[[str, float], None],
) -> tuple[Layer, ...]:
    shapes = {site.name: site.shape for site in survey(original, inputs)}
    kinds = {name: (shapes[name], choice) for name, choice in conversion.choices.items()}
    several = len(set(kinds.values()))
    known: dict[Any, tuple[float, float]] = {}
    for name, kind in kinds.items():
        if kind not in known:
            tell(f"timing {name}", len(known) / several)
            x = torch.randn(shapes[name].input_shape, dtype=torch.float32)
            pair = original.get_submodule(name), conversion.model.get_submodule(name)
            before, after = (for_inference(nn.Sequential(layer), x) for layer in pair)
            taken = measure.interleaved(
                {ORIGINAL: lambda: before(x), CONVERTED: lambda: after(x)},  # noqa: B023
                threads=threads,
                seconds=seconds / several,
                rounds=_ROUNDS,
            )
            known[kind] = 1e3 * taken[ORIGINAL].median, 1e3 * taken[CONVERTED].median
    return tuple(
        replace(layer, milliseconds=known[kinds[layer.name]]) if layer.converted else layer
        for layer in conversion.layers
    )


def _ways(model: nn.Module, name: str, inputs: tuple[Any, ...]) -> dict[str, Callable[[], object]]:
    """The network as PyTorch runs it in its two formats, and as Ninefold does."""
    fast = for_inference(model, inputs)
    last = pytree.tree_map_only(torch.Tensor, _channels_last, inputs)
    return {
        f"{name}, PyTorch": lambda: model(*inputs),
        f"{name}, PyTorch on channels-last input": lambda: model(*last),
        f"{name}, Ninefold": lambda: fast(*inputs),
    }


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
