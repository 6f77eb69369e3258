"""One network on one photograph, in plain PyTorch and through Ninefold: what `demo` and `report` show."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from PIL.Image import Image

from ninefold import census, measure, models, photos, surroundings
from ninefold.inference import InferenceModel, for_inference
from ninefold.reporting import data
from ninefold.shape import ConvShape

from .progress import Steps

NCHW, NHWC, NINEFOLD = "PyTorch, NCHW", "PyTorch, channels-last", "Ninefold"
_TOP = 5
_FATES = dict(zip(("fused", "kernel", "pytorch"), data.FATES, strict=True))


def examine(
    network: models.Network,
    picture: Image,
    *,
    photo: str,
    threads: int | None,
    seconds: float,
    steps: Steps,
    command: str,
) -> data.Examination:
    """Count, run, compare and time `network` on `picture`, with `threads` (None: PyTorch's number).

    `photo` is the picture's name, `seconds` how long the timing may take. Raises ValueError for a
    network that is no classifier, and what `for_inference` raises.
    """
    x = photos.prepare(picture, network.preparation)
    _check_classifier(network, x)
    measure.keep_memory()
    with measure.torch_threads(threads) as count:
        steps.step("counting the network")
        counted = census.take(network.model, (x,))
        steps.step("fusing and packing it")
        fast = for_inference(network.model, (x,))
        with torch.inference_mode():
            runs = _runs(network.model, fast, x)
            logits = {name: run()[0] for name, run in runs.items()}
            steps.step("measuring this machine's limits")
            limits = measure.limits(count)
            steps.step("timing, in turns")
            comparison = measure.interleaved(runs, seconds=seconds, progress=steps.done)
    contenders = {
        name: data.Contender(
            name, guesses(logits[name], network.classes), comparison[name].median, comparison[name].spread
        )
        for name in runs
    }
    fates = _fates(fast)
    return data.Examination(
        network=network.name,
        trained=network.trained,
        input_size=network.preparation.size,
        photo=photo,
        photo_uri=photos.as_data_uri(picture),
        plain=(contenders[NCHW], contenders[NHWC]),
        ninefold=contenders[NINEFOLD],
        speedup=comparison.ratio(comparison.fastest(NCHW, NHWC), NINEFOLD),
        rounds=len(comparison[NINEFOLD].samples),
        fused_share=_fused_share(counted, fates),
        logit_difference=max(_difference(logits[name], logits[NINEFOLD]) for name in (NCHW, NHWC)),
        count=_count(counted),
        layers=_layers(counted, fates),
        machine=surroundings.describe(limits),
        command=command,
    )


def _check_classifier(network: models.Network, x: torch.Tensor) -> None:
    rule = "`model` must be a classifier of pictures"
    try:
        with torch.inference_mode():
            logits = network.model(x)
    except RuntimeError as error:
        raise ValueError(f"{rule}, got {network.name}, which fails on one: {error}") from error
    if not isinstance(logits, torch.Tensor):
        raise ValueError(f"{rule}, got {network.name}, which returns a {type(logits).__name__}")
    if logits.dim() != 2:
        raise ValueError(f"{rule}, got {network.name}, which returns the shape {tuple(logits.shape)}")


def _runs(
    model: torch.nn.Module, fast: torch.nn.Module, x: torch.Tensor
) -> dict[str, Callable[[], torch.Tensor]]:
    last = torch.channels_last
    nhwc: torch.nn.Module = copy.deepcopy(model).to(memory_format=last)  # type: ignore[call-overload]
    x_nhwc = x.contiguous(memory_format=last)
    return {NCHW: lambda: model(x), NHWC: lambda: nhwc(x_nhwc), NINEFOLD: lambda: fast(x_nhwc)}


def guesses(logits: torch.Tensor, classes: tuple[str, ...] | None) -> tuple[data.Guess, ...]:
    """The likeliest classes, five at most; `classes` are their names."""
    probabilities, indices = logits.flatten().softmax(0).topk(min(_TOP, logits.numel()))
    found = zip(indices.tolist(), probabilities.tolist(), strict=True)
    return tuple(data.Guess(i, classes[i] if classes else f"class {i}", share) for i, share in found)


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / (a.max() - a.min()))


def _count(counted: census.Census) -> data.Count:
    return data.Count(
        counted.multiplications,
        counted.parameters,
        counted.standard_multiplications,
        counted.standard_parameters,
        len(counted.pairs),
        counted.separable_multiplications,
    )


def _fates(fast: InferenceModel) -> dict[str, tuple[str, str]]:
    """What became of each layer, by its name, and why; those of one fused kernel share the answer."""
    return {name: (_FATES[layer.how], layer.why) for layer in fast.layers for name in layer.name.split(" + ")}


def _fused_share(counted: census.Census, fates: Mapping[str, tuple[str, str]]) -> float:
    """The share of the pairs' multiplications in kernels that hold both stages."""
    fused = sum(
        stage.shape.multiplications
        for pair in counted.pairs
        if all(fates.get(stage.name, ("", ""))[0] == "fused" for stage in pair)
        for stage in pair
    )
    return fused / max(counted.separable_multiplications, 1)


def _layers(counted: census.Census, fates: Mapping[str, tuple[str, str]]) -> tuple[data.Layer, ...]:
    """One row for each pair and each layer outside one; `fates` tells what became of a convolution."""
    rows = []
    for layer in counted.layers:
        if layer.kind == "pointwise" and layer.pair is not None:
            continue
        built = standard = layer.shape.multiplications
        name, what = layer.name, _what(layer.shape, layer.kind)
        if layer.pair is not None:
            partner = counted.layers[layer.pair]
            standard = census.standard_of(layer, partner).multiplications
            built += partner.shape.multiplications
            name, what = f"{layer.name} → {partner.name}", _what(layer.shape, "separable", partner.shape)
        fate, reason = fates.get(layer.name, ("PyTorch", ""))
        rows.append(data.Layer(name, what, built, standard, fate, reason))
    return tuple(rows)


def _what(shape: ConvShape, kind: str, last: ConvShape | None = None) -> str:
    outputs = (last or shape).out_channels
    if kind == "linear":
        return f"linear, {shape.in_channels} → {outputs}"
    kernel, size = ("×".join(map(str, pair)) for pair in (shape.kernel_size, shape.output_size))
    return f"{kind} {kernel}, {shape.in_channels} → {outputs}, {size}"
