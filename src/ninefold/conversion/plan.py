"""Which layers to convert, into how many terms and in which order: as asked, or as a budget allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from torch import nn

from ninefold.conversion import budget as budgets
from ninefold.conversion.batches import Batches
from ninefold.conversion.calibrate import best, gather
from ninefold.conversion.factors import Order
from ninefold.conversion.layers import Choice
from ninefold.conversion.survey import Site

# The first few alternations bring most of what the rest will, enough to compare by: on the digit network
# 0.0576 of the error is left after 4 rounds and 0.0477 after 50.
_TRIAL_ROUNDS = 4

Plan = Mapping[str, tuple[tuple[Order, ...], int]]  # a layer's name → orders to choose from, terms


def within(
    share: Fraction,
    model: nn.Module,
    sites: Sequence[Site],
    batches: Batches | None,
    orders: Sequence[Order],
    seed: int,
    tell: Callable[[str, float], None],
) -> Plan:
    """What `share` of all convolutions' multiplications is best spent on.

    Raises ValueError if even one term in every layer takes more.
    """
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
    """The layer as it is, and with every number of terms that saves something."""
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


def _up(share: float) -> str:
    """A share to three digits, never below itself."""
    return f"{-(-share * 1000 // 1) / 1000:.3f}"
