"""Ninefold: depthwise separable convolutions, counted exactly and run as fast as the count promises."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Name -> the module that holds it. Nothing is imported until it is asked for: `import ninefold` needs
# neither torch nor the compiled kernels.
_MODULES = {"cost", "shape", "ops", "nn"}
_FUNCTIONS = {"explain": "ninefold.explanation", "for_inference": "ninefold.inference"}

__all__ = ["__version__", "cost", "explain", "for_inference", "nn", "ops", "shape"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"ninefold.{name}")
    if name in _FUNCTIONS:
        return getattr(import_module(_FUNCTIONS[name]), name)
    raise AttributeError(f"module 'ninefold' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
