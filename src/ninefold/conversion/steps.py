"""The steps of a conversion, one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ninefold.census import in_eval
from ninefold.conversion import checks, emphasis, mend, plan
from ninefold.conversion.batches import Batches
from ninefold.conversion.calibrate import best, gather
from ninefold.conversion.factors import Order
from ninefold.conversion.layers import Choice, fill, put, separable
from ninefold.conversion.result import Conversion, Layer
from ninefold.conversion.survey import Site, survey

Progress = Callable[[str, float], None]  # told what is being done and how far it is, from 0 to 1


def convert(
    model: nn.Module,
    example_inputs: Any,
    calibration: Any = None,
    terms: int | None = None,
    *,
    budget: float | None = None,
    order: Order | Literal["best"] = "depthwise",
    layers: Sequence[str] | None = None,
    passes: int = 5,
    memory: int = 4 << 30,
    seed: int = 0,
    progress: Progress | None = None,
) -> Conversion:
    """Return a copy of `model` in which standard convolutions are sums of separable ones.

    `example_inputs` is the model's input, or a tuple of its positional inputs; batch 1 will do. `calibration`
    is a tensor of inputs, or yields batches of them (labels after the inputs are left out), and is read many
    times: a few hundred images that look like those to come. Layer by layer the terms are fitted to what the
    network computes on them; without calibration they come from the weights alone, which at few terms ruins a
    network.

    `terms` is obeyed in every layer, even where it saves nothing; `budget` is the share of the convolutions'
    multiplications to keep, spread over the layers by what each loses; without either, every layer that one
    term makes cheaper gets one. `order` says which stage runs first; "best" takes the smaller error in each
    layer. `layers` names the layers to convert; by default the first convolution stays and every other one of
    more than 1×1 is converted. Each layer is then fitted again in `passes` passes, to those of its outputs
    that move the network's. What calibration holds besides the networks and a batch in them stays below
    `memory` bytes.

    Raises TypeError and ValueError, before any work and in one line, for arguments that cannot be obeyed: no
    layer to convert, data that is empty, of another size or not finite, a budget that is out of (0, 1] or
    that one term everywhere exceeds. `model` is never changed.
    """
    orders = checks.orders(order)
    checks.check(model, terms, budget, passes)
    inputs = checks.inputs_of(example_inputs)
    tell = progress or (lambda text, share: None)
    sites = survey(model, inputs, layers=layers)
    if terms is None and budget is None:
        terms = 1
        sites = [_where_it_pays(site, orders) for site in sites] if layers is None else sites
    checks.check_sites(model, sites)
    batches = None if calibration is None else Batches(calibration, inputs)
    todo = [site for site in sites if not site.why_not]
    if batches is not None:
        needed = checks.check_memory(sites, terms, memory, batches.images if passes else 0)
        tell(f"calibration will hold at most {needed >> 20} MB besides the networks and a batch in them", 0.0)
    with in_eval(model), torch.no_grad():
        wanted: plan.Plan = {site.name: (orders, terms or 1) for site in todo}
        if budget is not None:
            wanted = plan.within(Fraction(budget), model, sites, batches, orders, seed, tell)
        student = copy.deepcopy(model)
        made = {}
        images = emphasis.images_at_once(sites)
        for position, site in enumerate(todo):
            if site.name in wanted:
                tell(f"converting {site.name}", position / len(todo))
                made[site.name] = _convert(
                    model, student, site, *wanted[site.name], batches, seed, passes, images
                )
        notes = [] if batches is None else _mend(student, model, batches, tell)
    for name, module in model.named_modules():
        student.get_submodule(name).training = module.training
        if name in made:
            student.get_submodule(name).train(module.training)
    return Conversion(student, tuple(_layer(site, made) for site in sites), tuple(notes))


def singular_values_alone(conversion: Conversion, original: nn.Module) -> nn.Module:
    """A copy of `original` with the layers and terms of `conversion`, but without fitting: to compare."""
    made = copy.deepcopy(original)
    for name, choice in conversion.choices.items():
        convolution = original.get_submodule(name)
        assert isinstance(convolution, nn.Conv2d)
        factors, _ = best(convolution, choice.terms, (choice.first,), None)
        layer = separable(convolution, choice, bias=convolution.bias is not None)
        put(made, name, fill(layer, factors, convolution.bias))
    return made


def _convert(
    original: nn.Module,
    student: nn.Module,
    site: Site,
    orders: Sequence[Order],
    terms: int,
    batches: Batches | None,
    seed: int,
    passes: int,
    images: int,
) -> Layer:
    convolution = original.get_submodule(site.name)
    assert isinstance(convolution, nn.Conv2d)
    moments = None if batches is None else gather(original, student, site, batches, seed=seed)
    factors, error = best(convolution, terms, orders, moments)
    bias: Tensor | None = convolution.bias
    if moments is not None and batches is not None:
        factors, bias = emphasis.emphasise(
            *(factors, moments, original, student, site, batches), passes=passes, images=images, seed=seed
        )
        error = moments.error(factors.weight())
    choice = Choice(factors.first, factors.terms)
    put(student, site.name, fill(separable(convolution, choice, bias=bias is not None), factors, bias))
    return Layer(
        site.name,
        choice.terms,
        choice.first,
        (site.multiplications, site.converted_multiplications(choice.terms, choice.first)),
        (site.shape.parameters, site.converted_parameters(choice.terms, choice.first)),
        error,
        moments is not None,
    )


def _mend(student: nn.Module, original: nn.Module, batches: Batches, tell: Progress) -> list[str]:
    """Take batch-norm's statistics again, and keep them only where the network's output comes closer."""
    layers = mend.norms(student)
    if not layers:
        return []
    tell("taking batch-norm's statistics again", 1.0)
    kept = [copy.deepcopy(layer.state_dict()) for layer in layers]
    before = mend.output_error(student, original, batches)
    mend.reestimate(student, batches)
    after = mend.output_error(student, original, batches)
    if not after < before:
        for layer, state in zip(layers, kept, strict=True):
            layer.load_state_dict(state)
    verdict = "taken again" if after < before else "left as they were"
    errors = f"the network's output error is {before:.4f} with the old, {after:.4f} with new ones"
    return [f"batch-norm's statistics were {verdict}: {errors}"]


def _layer(site: Site, made: Mapping[str, Layer]) -> Layer:
    if site.name in made:
        return made[site.name]
    why = site.why_not or "the budget leaves it as it is"
    cost, weights = site.multiplications, site.shape.parameters
    return Layer(site.name, None, None, (cost, cost), (weights, weights), why=why)


def _where_it_pays(site: Site, orders: Sequence[Order]) -> Site:
    cheapest = min(site.ratio(1, first) for first in orders)
    return site if site.why_not or cheapest < 1 else replace(site, why_not="one term saves nothing")
