"""The steps of a conversion, one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ninefold.conversion import budget as budgets
from ninefold.conversion import emphasis, mend
from ninefold.conversion.batches import Batches
from ninefold.conversion.calibrate import best, gather, needed_bytes, positions_per_image
from ninefold.conversion.factors import ORDERS, Order
from ninefold.conversion.layers import Choice, fill, put, separable
from ninefold.conversion.result import Conversion, Layer
from ninefold.conversion.survey import Site, evaluating, survey
from ninefold.shape import integer

# The first few alternations bring most of what the rest will, enough to compare by: on the digit network
# 0.0576 of the error is left after 4 rounds and 0.0477 after 50.
_TRIAL_ROUNDS = 4

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

    `terms` (1 unless there is a budget) is obeyed in every layer, even where it saves nothing; `budget` is
    the share of the convolutions' multiplications to keep, spread over the layers by what each loses. `order`
    says which stage runs first; "best" takes the smaller error in each layer. `layers` names the layers to
    convert; by default the first convolution stays and every other one of more than 1×1 is converted. Each
    layer is then fitted again in `passes` passes, to those of its outputs that move the network's. What
    calibration holds besides the networks and a batch in them stays below `memory` bytes.

    Raises TypeError and ValueError, before any work and in one line, for arguments that cannot be obeyed: no
    layer to convert, data that is empty, of another size or not finite, a budget that is out of (0, 1] or
    that one term everywhere exceeds. `model` is never changed.
    """
    orders = _check(model, terms, budget, order)
    if isinstance(passes, bool) or not isinstance(passes, int) or passes < 0:
        raise ValueError(f"`passes` must be a whole number of at least 0, got {passes!r}")
    inputs = _inputs(example_inputs)
    terms = 1 if terms is None and budget is None else terms
    tell = progress or (lambda text, share: None)
    sites = survey(model, inputs, layers=layers)
    _check_sites(model, sites)
    batches = None if calibration is None else Batches(calibration, inputs)
    todo = [site for site in sites if not site.why_not]
    if batches is not None:
        needed = _check_memory(sites, terms, memory, batches.images if passes else 0)
        tell(f"calibration will hold at most {needed >> 20} MB besides the networks and a batch in them", 0.0)
    with evaluating(model), torch.no_grad():
        if terms is not None:
            wanted: Mapping[str, tuple[tuple[Order, ...], int]] = {
                site.name: (orders, terms) for site in todo
            }
        else:
            wanted = _planned(model, sites, batches, Fraction(budget or 1), orders, seed, tell)
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
            factors,
            moments,
            original,
            student,
            site,
            batches,
            passes=passes,
            positions=positions_per_image(site, batches),
            images=images,
            seed=seed,
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


def _planned(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Batches | None,
    share: Fraction,
    orders: Sequence[Order],
    seed: int,
    tell: Progress,
) -> Mapping[str, tuple[tuple[Order, ...], int]]:
    """Which layers to convert into how many terms, for `share` of all convolutions' multiplications."""
    total = sum(site.multiplications for site in sites)
    todo = [site for site in sites if not site.why_not]
    fixed = total - sum(site.multiplications for site in todo)
    least = fixed + sum(
        min(site.multiplications, *(site.converted_multiplications(1, first) for first in orders))
        for site in todo
    )
    if least > share * total:
        rule = f"`budget` must be at least {_up(least / total)}, which one term in every layer leaves"
        raise ValueError(f"{rule}, got {float(share):g}")
    options = {}
    for position, site in enumerate(todo):
        tell(f"weighing {site.name}", position / len(todo))
        options[site.name] = _options(model, site, batches, orders, seed)
    chosen = budgets.spread(options, int(share * total) - fixed)
    return {
        name: ((option.choice.first,), option.choice.terms)
        for name, option in chosen.items()
        if option.choice is not None
    }


def _options(
    model: nn.Module, site: Site, batches: Batches | None, orders: Sequence[Order], seed: int
) -> list[budgets.Option]:
    convolution = model.get_submodule(site.name)
    assert isinstance(convolution, nn.Conv2d)
    moments = None if batches is None else gather(model, model, site, batches, seed=seed)
    options = [budgets.Option(None, site.multiplications, 0.0)]
    for first in orders:
        for terms in range(1, site.full[first] + 1):
            cost = site.converted_multiplications(terms, first)
            if cost >= site.multiplications:
                break
            _, error = best(convolution, terms, (first,), moments, rounds=_TRIAL_ROUNDS)
            options.append(budgets.Option(Choice(first, terms), cost, error))
    return options


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


def _check(model: nn.Module, terms: int | None, budget: float | None, order: str) -> tuple[Order, ...]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
    if terms is not None:
        integer("terms", terms)
        if budget is not None:
            raise ValueError(f"`terms` and `budget` exclude each other, got {terms} and {budget}")
    if budget is not None:
        if isinstance(budget, bool) or not isinstance(budget, float | int | Fraction):
            raise TypeError(f"`budget` must be a number, got {budget!r}")
        if not 0 < budget <= 1:
            raise ValueError(f"`budget` must be above 0 and at most 1, got {budget}")
    if order not in (*ORDERS, "best"):
        raise ValueError(f"`order` must be 'depthwise', 'pointwise' or 'best', got {order!r}")
    return ORDERS if order == "best" else tuple(each for each in ORDERS if each == order)


def _inputs(example_inputs: Any) -> tuple[Any, ...]:
    inputs = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(inputs)):
        kind = type(example_inputs).__name__
        raise TypeError(f"`example_inputs` must be a tensor or a tuple of inputs, got {kind}")
    return inputs


def _check_sites(model: nn.Module, sites: Sequence[Site]) -> None:
    if all(site.why_not for site in sites):
        reasons = "; ".join(f"{site.name}: {site.why_not}" for site in sites[:3])
        more = f" and {len(sites) - 3} more" if len(sites) > 3 else ""
        found = f"{reasons}{more}" if sites else "it calls no Conv2d"
        raise ValueError(f"`model` must have a convolution to convert, got none ({found})")
    for site in sites:
        weight = model.get_submodule(site.name).weight
        if not site.why_not and not bool(torch.isfinite(weight).all()):  # type: ignore[arg-type]
            raise ValueError(f"`model` must have finite weights, got NaN or infinity in {site.name}")


def _check_memory(sites: Sequence[Site], terms: int | None, memory: int, images: int) -> int:
    """The bytes that calibration will hold at most; under a budget any number of terms may be tried."""
    needs = {
        site.name: needed_bytes(site, terms or max(site.full.values()))
        + emphasis.needed_bytes(site, sites, images)
        for site in sites
        if not site.why_not
    }
    name = max(needs, key=lambda each: needs[each])
    if needs[name] > memory:
        rule = f"`memory` must be at least {needs[name]:,} bytes, which calibrating {name} takes"
        raise ValueError(f"{rule}, got {memory:,}; or leave that layer out of `layers`")
    return needs[name]


def _up(share: float) -> str:
    """A share to three digits, never below itself."""
    return f"{-(-share * 1000 // 1) / 1000:.3f}"
