"""`convert`: a trained network's standard convolutions become separable ones and keep what they learnt.

survey → decompose → calibrate, from the front of the network → take batch-norm's statistics again.
"""

from __future__ import annotations

from ninefold.conversion.result import Conversion, Layer
from ninefold.conversion.saving import load_converted
from ninefold.conversion.steps import convert

__all__ = ["Conversion", "Layer", "convert", "load_converted"]
