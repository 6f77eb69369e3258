"""Converters for the tests, in a module that another process can import."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch


def write(model: torch.nn.Module, x: np.ndarray, path: Path) -> None:
    path.write_text(f"{type(model).__name__} {x.shape}", encoding="utf-8")


def refuse(model: torch.nn.Module, x: np.ndarray, path: Path) -> None:
    raise ValueError("there is no way\nreally")


def forget(model: torch.nn.Module, x: np.ndarray, path: Path) -> None: ...
