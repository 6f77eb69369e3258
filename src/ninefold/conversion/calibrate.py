"""One layer's terms, from its weights alone or fitted to what the network feeds it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ninefold.conversion.batches import Batches, Probe
from ninefold.conversion.factors import Factors, Order, decompose, grouped
from ninefold.conversion.fit import fit
from ninefold.conversion.moments import Gathering, Moments, gathering_bytes
from ninefold.conversion.survey import Site
from ninefold.shape import numel

# Positions per unknown of a filter bank, and the least that is worth having: the moments of 512 channels of
# 3×3 take 20 million multiplications per position, so more than enough costs minutes.
_PER_UNKNOWN = 10
_LEAST = 100_000


def gather(original: nn.Module, student: nn.Module, site: Site, batches: Batches, *, seed: int) -> Moments:
    """Moments of what `student` feeds the layer against what `original` gives there; both in eval mode."""
    convolution = original.get_submodule(site.name)
    assert isinstance(convolution, nn.Conv2d)
    gathering = Gathering(convolution, positions=positions_per_image(site, batches), seed=seed)
    ask = Probe(original, site.name, site.calls, inputs=False)
    feed = Probe(student, site.name, site.calls, inputs=True)
    for inputs in batches:
        for x, y in zip(feed(*inputs), ask(*inputs), strict=True):
            gathering.add(x, y)
    return gathering.moments()


def best(
    convolution: nn.Conv2d, terms: int, orders: Sequence[Order], moments: Moments | None, *, rounds: int = 50
) -> tuple[Factors, float]:
    """The best `terms` terms among `orders`, and their error.

    With moments: the output error, a share of the outputs' variance. Without: the share of the weights'
    energy lost.
    """
    weight = grouped(convolution.weight, convolution.groups)
    found = []
    for first in orders:
        factors = decompose(weight, terms, first=first)
        if moments is not None:
            factors = fit(factors, moments, rounds=rounds)
            found.append((factors, moments.error(factors.weight())))
        else:
            lost = (factors.weight() - weight).square().sum() / weight.square().sum().clamp_min(1e-300)
            found.append((factors, float(lost)))
    return min(found, key=lambda each: each[1])


def positions_per_image(site: Site, batches: Batches) -> int:
    """How many of an image's positions are enough, given how many images there are."""
    return -(-wanted_positions(site) // (batches.images * site.calls))


def wanted_positions(site: Site) -> int:
    """How many positions make the moments of a layer's patches good enough."""
    return max(_LEAST, _PER_UNKNOWN * site.shape.channels_per_group * numel(site.shape.kernel_size))


def needed_bytes(site: Site, terms: int) -> int:
    """The most that calibrating a layer holds at once, besides the networks and one batch in them."""
    shape = site.shape
    taps = numel(shape.kernel_size)
    patch = shape.channels_per_group * taps
    outputs = shape.out_channels // shape.groups
    # S twice (gathered and centred or regularised), C thrice (as gathered and as emphasised), the filters'
    # image under S, the combinations' Gram matrix and its factorisation.
    numbers = 2 * patch**2 + 3 * outputs * patch
    numbers += shape.channels_per_group * terms * patch + 3 * (shape.channels_per_group * terms) ** 2
    return shape.groups * 8 * numbers + gathering_bytes(shape)
