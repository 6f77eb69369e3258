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
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ninefold.conversion.batches import Batches, Probe
from ninefold.conversion.factors import Factors
from ninefold.conversion.fit import fit
from ninefold.conversion.mend import first_tensor
from ninefold.conversion.moments import Gathering, Moments
from ninefold.conversion.survey import Site
from ninefold.shape import numel

_ROUNDS = 10  # alternations in a pass, which begin where the last pass ended
SAVED_BYTES = 256 << 20  # of activations that a backward pass may keep


def emphasise(
    factors: Factors,
    moments: Moments,
    original: nn.Module,
    student: nn.Module,
    site: Site,
    batches: Batches,
    *,
    passes: int,
    positions: int,
    images: int,
    seed: int,
) -> tuple[Factors, Tensor]:
    """`factors`, fitted anew in `passes` passes over `batches`, and the bias (N,) that belongs to them.

    `moments` are those they were fitted to, of `positions` of each image, chosen by `seed`. Gradients are
    taken of `images` images at a time.
    """
    convolution = original.get_submodule(site.name)
    assert isinstance(convolution, nn.Conv2d)
    bias = moments.bias(factors.weight())
    feed = Probe(student, site.name, site.calls, inputs=True)
    for _ in range(passes):
        fitted = _as_convolution(convolution, factors, bias)
        # The same positions as the moments', or S and C would not belong together.
        gathering = Gathering(convolution, positions=positions, seed=seed, squares=False)
        chance = torch.Generator().manual_seed(seed)
        mean = total = 0.0
        for inputs in batches:
            found = _gradients(original, convolution, inputs, images, chance)
            if found is None:
                return factors, bias
            for x, y, slope in zip(feed(*inputs), *found, strict=True):
                total, mean = total + slope.numel(), mean + float(slope.sum())
                share = (slope * (total / max(mean, 1e-300))).clamp(max=1)
                gathering.add(x, torch.lerp(fitted(x), y, share))
        aim = gathering.moments()
        aim = replace(moments, cross=aim.cross, energy=aim.energy, output_mean=aim.output_mean)
        factors = fit(factors, aim, rounds=_ROUNDS)
        bias = aim.bias(factors.weight())
    return factors, bias


def images_at_once(sites: Sequence[Site]) -> int:
    """How many images' gradients can be taken at a time; for one of a convolution's about three are kept."""
    shapes = [(site.calls * site.shape.out_channels, numel(site.shape.output_size)) for site in sites]
    return max(1, SAVED_BYTES // max(1, sum(12 * channels * places for channels, places in shapes)))


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
