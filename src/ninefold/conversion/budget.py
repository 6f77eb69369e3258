"""A budget of multiplications spread over the layers: whatever loses least for what it saves goes first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ninefold.conversion.layers import Choice


@dataclass(frozen=True)
class Option:
    """One way to have a layer: what it costs and what it loses; `choice` None leaves the layer standard."""

    choice: Choice | None
    multiplications: int
    error: float


def spread(options: Mapping[str, Sequence[Option]], allowed: int) -> dict[str, Option]:
    """Choose an option for each layer so that their multiplications add up to at most `allowed`.

    Starts from the dearest option of each layer and takes, again and again, the step that loses least for
    each multiplication it saves, along each layer's lower hull of (multiplications, error). What is left of
    the budget at the end goes to whoever gains most from it. Raises ValueError if the cheapest options cost
    more.
    """
    hulls = {name: _hull(each) for name, each in options.items()}
    least = sum(hull[-1].multiplications for hull in hulls.values())
    if least > allowed:
        raise ValueError(f"`allowed` must be at least {least}, got {allowed}")
    at = dict.fromkeys(hulls, 0)
    spent = sum(hull[0].multiplications for hull in hulls.values())
    while spent > allowed:
        steps = [
            (_price(hull[at[name]], hull[at[name] + 1]), name)
            for name, hull in hulls.items()
            if at[name] + 1 < len(hull)
        ]
        name = min(steps)[1]
        spent -= hulls[name][at[name]].multiplications - hulls[name][at[name] + 1].multiplications
        at[name] += 1
    chosen = {name: hull[at[name]] for name, hull in hulls.items()}
    return _use_the_rest(options, chosen, allowed - spent)


def _use_the_rest(
    options: Mapping[str, Sequence[Option]], chosen: dict[str, Option], left: int
) -> dict[str, Option]:
    while True:
        better = [
            (chosen[name].error - option.error, name, option)
            for name, each in options.items()
            for option in each
            if option.multiplications - chosen[name].multiplications <= left
            and option.error < chosen[name].error
        ]
        if not better:
            return chosen
        _, name, option = max(better, key=lambda each: each[0])
        left -= option.multiplications - chosen[name].multiplications
        chosen = {**chosen, name: option}


def _hull(options: Sequence[Option]) -> list[Option]:
    """The options worth taking, from the dearest to the cheapest, at rising prices."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda each: (each.multiplications, each.error)):
        if hull and option.error >= hull[-1].error:
            continue
        while len(hull) > 1 and _price(hull[-1], hull[-2]) <= _price(option, hull[-1]):
            hull.pop()
        hull.append(option)
    return hull[::-1]


def _price(dear: Option, cheap: Option) -> float:
    return (cheap.error - dear.error) / (dear.multiplications - cheap.multiplications)
