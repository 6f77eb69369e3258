"""Ninefold: depthwise separable convolutions, counted exactly and run as fast as the count promises."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Name -> the module that holds it. Nothing is imported until it is asked for: `import ninefold` needs
# neither torch nor the compiled kernels.
_MODULES = {"cost", "shape", "ops", "nn", "training"}
_FUNCTIONS = {
    "convert": "ninefold.conversion",
    "explain": "ninefold.explanation",
    "for_inference": "ninefold.inference",
    "for_training": "ninefold.training",
    "load_converted": "ninefold.conversion",
    "report": "ninefold.survey",
    "restore": "ninefold.training",
}

__all__ = [
    "__version__",
    "convert",
    "cost",
    "explain",
    "for_inference",
    "for_training",
    "load_converted",
    "nn",
    "ops",
    "report",
    "restore",
    "shape",
    "training",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES and name not in _FUNCTIONS:
        raise AttributeError(f"module 'ninefold' has no attribute {name!r}")
    try:
        found = import_module(_FUNCTIONS.get(name, f"ninefold.{name}"))
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        message = f"`ninefold.{name}` needs PyTorch: pip install 'ninefold[torch]'"
        raise ModuleNotFoundError(message, name="torch") from error
    return getattr(found, name) if name in _FUNCTIONS else found


def __dir__() -> list[str]:
    return sorted(__all__)
