"""Weights from a file into a network: safetensors, or what `torch.save` wrote, read with `weights_only`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ninefold import limits

from .network import check_file, in_words

_PICKLED = (".pth", ".pt", ".bin", ".ckpt")
# Under which name a checkpoint may hold the weights, and what wrappers put before each name.
_INSIDE = ("state_dict", "model", "model_state_dict")
_WRAPPED = "module."


def load_into(model: torch.nn.Module, path: Path) -> None:
    """Put the weights of a file into `model`, all of them, by name.

    Raises FileNotFoundError for no file, ValueError for a file of another kind, a broken one, one that
    `weights_only` refuses, or weights that are not this network's.
    """
    check_file(path, "weights")
    found = {name.removeprefix(_WRAPPED): tensor for name, tensor in _read(path).items()}
    wanted = model.state_dict()
    _check_names(wanted, found, path)
    for name, tensor in found.items():
        if tensor.is_complex() != wanted[name].is_complex() or tensor.layout is not torch.strided:
            kind = f"{str(tensor.dtype).removeprefix('torch.')} numbers"
            raise ValueError(
                f"`weights` must fit the network, got {limits.shown(name)} of {kind} in {str(path)!r}"
            )
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)} where {tuple(wanted[name].shape)} is wanted"
            raise ValueError(
                f"`weights` must fit the network, got {limits.shown(name)} of shape {shapes} in {str(path)!r}"
            )
    model.load_state_dict(found)


def _read(path: Path) -> dict[str, torch.Tensor]:
    rule = "`weights` must be a file of tensors by name"
    suffix = path.suffix.lower()
    if suffix not in (".safetensors", *_PICKLED):
        raise ValueError(f"`weights` must end in .safetensors or {', '.join(_PICKLED)}, got {str(path)!r}")
    try:
        loaded: Any
        if suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded = load_file(path)
        else:
            loaded = limits.load_tensors(path)
    except ImportError:
        raise ImportError("reading .safetensors needs a package: pip install safetensors") from None
    except Exception as error:
        raise ValueError(f"{rule}, got {str(path)!r}: {in_words(error)}") from error
    for name in _INSIDE:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if not isinstance(loaded, Mapping) or not all(isinstance(each, torch.Tensor) for each in loaded.values()):
        raise ValueError(f"{rule}, got {str(path)!r}, which holds something else")
    return dict(loaded)


def _check_names(wanted: Mapping[str, Any], found: Mapping[str, Any], path: Path) -> None:
    for what, names in (
        ("lacks", [name for name in wanted if name not in found]),
        ("has besides", [name for name in found if name not in wanted]),
    ):
        if names:
            first, more = limits.shown(names[0]), f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(
                f"`weights` must be this network's, got {str(path)!r}, which {what} {first}{more}"
            )
