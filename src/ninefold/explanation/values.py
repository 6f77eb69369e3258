"""Every number that is shown, as text, by the name that words and pictures call it.

`script/values.js` computes the same in the page, and a test holds that the two agree on every entry.
"""

from __future__ import annotations

from fractions import Fraction

from ninefold import cost

from .layer import Layer


def values(layer: Layer) -> dict[str, str]:
    """The names that stand in braces in words and pictures, and their text for this layer."""
    M, N, Dk, Dg, m = (
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.output_size,
        layer.multiplier,
    )
    both = cost.compare(M, N, Dk, Dg, multiplier=m)
    first = cost.depthwise(M, Dk, Dg, multiplier=m)
    second = cost.pointwise(M * m, N, Dg)
    costs = {
        "one_position": cost.one_position(M, Dk),
        "one_kernel": cost.one_kernel(M, Dk, Dg),
        "standard": both.standard,
        "depthwise": first,
        "pointwise": second,
        "separable": both.separable,
    }
    # Values read and written once: input, weights, output.
    moved = {
        "standard": layer.input_size**2 * M + both.standard.parameters + Dg * Dg * N,
        "depthwise": layer.input_size**2 * M + first.parameters + Dg * Dg * M * m,
        "pointwise": Dg * Dg * M * m + second.parameters + Dg * Dg * N,
    }
    shown = {name: str(number) for name, number in numbers(layer).items()}
    shown |= {"p": str(layer.padding), "taps": str(Dk * Dk), "pixels": grouped(Dg * Dg)}
    # A multiplier of one is not written.
    shown |= {"ms": "m · ", "mn": f"{m} · ", "mM": "mM"} if m > 1 else {"ms": "", "mn": "", "mM": "M"}
    shown |= {name: grouped(each.multiplications) for name, each in costs.items()}
    shown |= {f"{name}_parameters": grouped(each.parameters) for name, each in costs.items()}
    shown |= {f"{name}_moved": grouped(count) for name, count in moved.items()}
    shown |= {
        f"{name}_intensity": decimal(Fraction(costs[name].multiplications, moved[name]), 3)[0]
        for name in moved
    }
    ratio, exact = decimal(both.ratio, 4)
    terms = (
        ("m · (1/N + 1/D_k²)", f"{m} · (1/{N} + 1/{Dk * Dk})")
        if m > 1
        else ("1/N + 1/D_k²", f"1/{N} + 1/{Dk * Dk}")
    )
    return shown | {
        "ratio_symbols": terms[0],
        "ratio_terms": terms[1],
        "ratio_fraction": str(both.ratio),
        "ratio": ratio,
        "about": "=" if exact else "≈",
        "percent": decimal(100 * both.ratio, 3)[0],
        "times": decimal(1 / both.ratio if both.ratio < 1 else both.ratio, 3)[0],
        "depthwise_percent": decimal(
            Fraction(100 * first.multiplications, both.separable.multiplications), 3
        )[0],
        "pointwise_percent": decimal(
            Fraction(100 * second.multiplications, both.separable.multiplications), 3
        )[0],
        "floor": str(Fraction(m, Dk * Dk)),
    }


def numbers(layer: Layer) -> dict[str, int]:
    """The lengths that boxes are drawn to: channels and sides, by their symbols."""
    return {
        "M": layer.in_channels,
        "N": layer.out_channels,
        "Dk": layer.kernel_size,
        "Dg": layer.output_size,
        "Df": layer.input_size,
        "s": layer.stride,
        "m": layer.multiplier,
        "MM": layer.in_channels * layer.multiplier,
        "1": 1,
    }


def shares(layer: Layer) -> dict[str, float]:
    """The lengths of bars, from 0 to 1: costs by the larger of the two, stages also by their sum."""
    M, N, Dk, Dg = layer.in_channels, layer.out_channels, layer.kernel_size, layer.output_size
    both = cost.compare(M, N, Dk, Dg, multiplier=layer.multiplier)
    first = cost.depthwise(M, Dk, Dg, multiplier=layer.multiplier).multiplications
    standard, separable = both.standard.multiplications, both.separable.multiplications
    longest = max(standard, separable)
    return {
        "standard": standard / longest,
        "depthwise": first / longest,
        "pointwise": (separable - first) / longest,
        "depthwise_of_separable": first / separable,
        "pointwise_of_separable": (separable - first) / separable,
    }


def verdict(layer: Layer) -> str:
    """Whether the separable layer is "cheaper", "dearer" or "equal": the end of a phrase's name."""
    both = cost.compare(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.output_size,
        multiplier=layer.multiplier,
    )
    return "cheaper" if both.ratio < 1 else "dearer" if both.ratio > 1 else "equal"


def grouped(number: int) -> str:
    """A count in groups of three: 924,844,032."""
    return f"{number:,}"


def decimal(value: Fraction, digits: int) -> tuple[str, bool]:
    """A positive fraction to so many significant digits, half up, no idle zeros; and whether it is exact.

    In integers alone, so that the page's script can do the same and find the same.
    """
    top, bottom = value.numerator, value.denominator
    places = digits - 1
    while top * 10**places < bottom * 10 ** (digits - 1):
        places += 1
    while places > 0 and top * 10**places >= bottom * 10**digits:
        places -= 1
    scaled = (2 * top * 10**places + bottom) // (2 * bottom)
    exact = scaled * bottom == top * 10**places
    whole, rest = divmod(scaled, 10**places)
    tail = str(rest).rjust(places, "0").rstrip("0") if places else ""
    return grouped(whole) + (f".{tail}" if tail else ""), exact
