from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest

from ninefold.reporting import data


def test_ratios_are_exact(examination: data.Examination) -> None:
    assert examination.count.multiplications_ratio == Fraction(385_187_552, 3_023_631_360)
    assert examination.count.parameters_ratio == Fraction(4_608_992, 32_487_648)


def test_the_fastest_plain_one_is_the_one_to_beat(examination: data.Examination) -> None:
    assert examination.best_plain.name == "PyTorch, channels-last"
    assert [each.name for each in examination.contenders][-1] == "Ninefold"


def test_the_limit_is_the_multiplications_at_peak(examination: data.Examination) -> None:
    assert examination.limit_seconds == pytest.approx(2 * 385_187_552 / 100e9)


def test_guesses_are_the_same_in_the_same_order(examination: data.Examination) -> None:
    assert examination.same_guesses
    swapped = dataclasses.replace(examination.ninefold, guesses=examination.ninefold.guesses[::-1])
    assert not dataclasses.replace(examination, ninefold=swapped).same_guesses
