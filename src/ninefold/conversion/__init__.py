"""`convert`: a trained network's standard convolutions become separable ones and keep what they learnt.

survey → decompose → calibrate, from the front of the network → take batch-norm's statistics again.
"""

from __future__ import annotations

from ninefold.conversion.distil import distil
from ninefold.conversion.result import Conversion, Layer
from ninefold.conversion.saving import load_converted
from ninefold.conversion.scoring import accuracy, scored
from ninefold.conversion.steps import convert, singular_values_alone
from ninefold.conversion.timing import timed

__all__ = [
    "Conversion",
    "Layer",
    "accuracy",
    "convert",
    "distil",
    "load_converted",
    "scored",
    "singular_values_alone",
    "timed",
]
