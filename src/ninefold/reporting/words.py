"""The three lines at the top of a report, and its sentences: the same on the page and on a terminal."""

from __future__ import annotations

from .facts import Alone, Report, size


def short(number: float) -> str:
    """A count that fits a label: 385 M, 3.02 G."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.3g}"


def ms(seconds: float) -> str:
    """Milliseconds, three digits."""
    return f"{1000 * seconds:.3g} ms"


def times(factor: float) -> str:
    """A factor: 8.92×, 12×, 0.97×."""
    return f"{factor:.3g}×"


def cost_line(it: Report) -> tuple[str, str]:
    """What it costs: the figures, and what they are for."""
    inputs = " and ".join(size(shape) for shape in it.inputs)
    return (
        f"{short(it.multiplications)} multiplications, {short(it.parameters)} parameters",
        f"for an input of {inputs}; its layers read and write {short(it.bytes)}B.",
    )


def other_line(it: Report) -> tuple[str, str]:
    """What it would cost the other way."""
    if not it.swaps:
        return "Nothing to replace", "it has no convolution that would need less as a separable one."
    multiplications, weights = it.other_way
    figures = f"{short(multiplications)} multiplications"
    if it.is_separable:
        factor = multiplications / it.multiplications
        return (
            f"{times(factor)} as many, {figures}",
            f"is what it would need with standard convolutions instead of its {_pairs(len(it.saved))}, "
            f"and {times(weights / it.weights)} the weights.",
        )
    factor = it.multiplications / multiplications
    return (
        f"{times(factor)} fewer, {figures}",
        f"is what it would need with {_layers(len(it.swaps))} made separable, and "
        f"{times(it.weights / weights)} fewer weights.",
    )


def speed_line(it: Report) -> tuple[str, str]:
    """How fast it runs here."""
    threads = "1 thread" if it.machine.threads == 1 else f"{it.machine.threads} threads"
    return (
        f"{ms(it.best_plain.seconds)} in PyTorch, {ms(it.ninefold.seconds)} in Ninefold",
        f"on this machine with {threads}: {times(it.speedup)} as fast. Its multiplications alone take "
        f"{ms(it.limit_seconds)} at peak.",
    )


def lines(it: Report) -> tuple[tuple[str, str], ...]:
    """The three lines that matter: what it costs, what it would cost the other way, how fast it runs."""
    return cost_line(it), other_line(it), speed_line(it)


def together(it: Report) -> str:
    """What the swaps come to, promised and measured."""
    alone = it.together
    if alone is None:
        return ""
    standard = sum(swap.standard_multiplications for swap in it.swaps)
    separable = sum(swap.separable_multiplications for swap in it.swaps)
    both = _sum(alone)
    count = _pairs(len(it.swaps)) if it.is_separable else _layers(len(it.swaps))
    plain = sum(swap.pytorch.standard for swap in it.swaps) / sum(swap.pytorch.separable for swap in it.swaps)
    return (
        f"In all, {count}: {times(standard / separable)} fewer multiplications as separable convolutions. "
        f"Measured each alone, {both} in Ninefold, {times(alone.standard / alone.separable)} as fast; "
        f"in PyTorch {times(plain)}."
    )


def _sum(alone: Alone) -> str:
    return f"{ms(alone.standard)} against {ms(alone.separable)}"


def _pairs(count: int) -> str:
    return f"{count} separable {'pair' if count == 1 else 'pairs'}"


def _layers(count: int) -> str:
    return f"{count} standard {'convolution' if count == 1 else 'convolutions'}"
