"""Fitted terms, fitted again to what matters: outputs of a layer that move the network's outputs.

Least squares takes every output of a layer for equally dear, also one that a ReLU or a pooling is about to
drop. Let g be the share, from 0 to 1, that an output counts, by its squared gradient: that of a random
combination of the network's outputs, over the mean of all of the layer's, and 1 where it is more. The error

    J(W) = E[Σ g (y − W p)²]

would need a matrix S of its own for each output channel. But with V the weights of the last fit, and targets
y' = V p + g (y − V p), J(W) ≤ E[Σ (y' − W p)²] + constant, with equality at W = V, because g ≤ 1. So each
pass over the data makes targets and fits to them as before, with the S there is, and J never rises.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ninefold.conversion.batches import Batches, Probe
from ninefold.conversion.calibrate import positions_per_image
from ninefold.conversion.factors import Factors
from ninefold.conversion.fit import fit
from ninefold.conversion.mend import first_tensor
from ninefold.conversion.moments import Gathering, Moments
from ninefold.conversion.survey import Site
from ninefold.shape import numel

_ROUNDS = 10  # alternations in a pass, which begin where the last pass ended
_SAVED_BYTES = 256 << 20  # of activations that a backward pass may keep
_KEPT_BYTES = 512 << 20  # of a layer's inputs, outputs and their slopes, from pass to pass


def emphasise(
    factors: Factors,
    moments: Moments,
    original: nn.Module,
    student: nn.Module,
    site: Site,
    batches: Batches,
    *,
    passes: int,
    images: int,
    seed: int,
) -> tuple[Factors, Tensor]:
    """`factors`, fitted anew in `passes` passes over `batches`, and the bias (N,) that belongs to them.

    `moments` are those that `gather` made with this `seed`. Gradients are taken of `images` images at a time.
    """
    convolution = original.get_submodule(site.name)
    assert isinstance(convolution, nn.Conv2d)
    bias = moments.bias(factors.weight())
    if not passes:
        return factors, bias
    found = _Evidence(original, student, site, batches, images, seed)
    positions = positions_per_image(site, batches)
    for _ in range(passes):
        fitted = _as_convolution(convolution, factors, bias)
        # The same positions as the moments', or S and C would not belong together.
        gathering = Gathering(convolution, positions=positions, seed=seed, squares=False)
        mean = total = 0.0
        for x, y, slope in found:
            total, mean = total + slope.numel(), mean + float(slope.sum())
            share = (slope * (total / max(mean, 1e-300))).clamp(max=1)
            gathering.add(x, torch.lerp(fitted(x), y, share))
        if not total:
            break
        aim = gathering.moments()
        aim = replace(moments, cross=aim.cross, energy=aim.energy, output_mean=aim.output_mean)
        factors = fit(factors, aim, rounds=_ROUNDS)
        bias = aim.bias(factors.weight())
    return factors, bias


def needed_bytes(site: Site, sites: Sequence[Site], images: int) -> int:
    """What a layer's passes over `images` images hold, besides what calibrating it does."""
    kept, saved = _evidence_bytes(site, images), _saved_bytes(sites)
    return (kept if kept <= _KEPT_BYTES else 0) + saved * min(images, images_at_once(sites))


def images_at_once(sites: Sequence[Site]) -> int:
    """How many images' gradients can be taken at a time."""
    return max(1, _SAVED_BYTES // max(1, _saved_bytes(sites)))


def _saved_bytes(sites: Sequence[Site]) -> int:
    """Of one image, for its gradients: three images for each that a convolution makes."""
    return sum(12 * site.calls * site.shape.out_channels * numel(site.shape.output_size) for site in sites)


def _evidence_bytes(site: Site, images: int) -> int:
    shape = site.shape
    numbers = shape.in_channels * numel(shape.input_size)
    numbers += 2 * shape.out_channels * numel(shape.output_size)
    return 4 * images * site.calls * numbers


class _Evidence:
    """A layer's inputs, the outputs wanted and their slopes, batch by batch; kept where there is room."""

    def __init__(
        self, original: nn.Module, student: nn.Module, site: Site, batches: Batches, images: int, seed: int
    ) -> None:
        self._original, self._layer = original, original.get_submodule(site.name)
        self._feed = Probe(student, site.name, site.calls, inputs=True)
        self._batches, self._images, self._seed = batches, images, seed
        small = _evidence_bytes(site, batches.images) <= _KEPT_BYTES
        self._kept = list(self._made()) if small else None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return iter(self._kept) if self._kept is not None else self._made()

    def _made(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        chance = torch.Generator().manual_seed(self._seed)
        for inputs in self._batches:
            found = _gradients(self._original, self._layer, inputs, self._images, chance)
            if found is None:
                return
            yield from zip(self._feed(*inputs), *found, strict=True)


def _gradients(
    model: nn.Module, layer: nn.Module, inputs: tuple[Any, ...], images: int, chance: torch.Generator
) -> tuple[list[Tensor], list[Tensor]] | None:
    """The layer's outputs, call by call, and the squared gradient of a random sum of the model's outputs."""
    outputs: list[list[Tensor]] = []
    slopes: list[list[Tensor]] = []
    for part in _parts(inputs, images):
        seen: list[tuple[Tensor, Tensor]] = []

        def watch(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            nothing = torch.zeros_like(output, requires_grad=True)
            seen.append((output.detach().clone(), nothing))  # noqa: B023
            return output + nothing

        handle = layer.register_forward_hook(watch)
        try:
            with torch.enable_grad():
                answers = first_tensor(model(*part))
                if not answers.requires_grad:
                    return None
                weights = torch.randn(answers.shape, generator=chance).to(answers)
                ends = [nothing for _, nothing in seen]
                found = torch.autograd.grad((answers * weights).sum(), ends, allow_unused=True)
        finally:
            handle.remove()
        outputs.append([output for output, _ in seen])
        slopes.append(
            [
                torch.zeros_like(end) if slope is None else slope.square()
                for slope, end in zip(found, ends, strict=True)
            ]
        )
    return [torch.cat(each) for each in zip(*outputs, strict=True)], [
        torch.cat(each) for each in zip(*slopes, strict=True)
    ]


def _parts(inputs: tuple[Any, ...], images: int) -> list[tuple[Any, ...]]:
    """`inputs`, some images at a time; what is no tensor, or holds another number of images, goes along."""
    count = len(inputs[0]) if isinstance(inputs[0], Tensor) else 1
    if count <= images:
        return [inputs]
    return [
        tuple(
            each[at : at + images] if isinstance(each, Tensor) and each.dim() and len(each) == count else each
            for each in inputs
        )
        for at in range(0, count, images)
    ]


def _as_convolution(like: nn.Conv2d, factors: Factors, bias: Tensor) -> nn.Conv2d:
    """The standard convolution that the terms add up to."""
    made = copy.deepcopy(like)
    with torch.no_grad():
        made.weight.copy_(factors.weight().reshape(made.weight.shape))
        made.bias = nn.Parameter(bias.to(made.weight))
    return made
