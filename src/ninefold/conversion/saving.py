"""A conversion on disk: weights as safetensors, and one JSON that says which layers became what."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ninefold.conversion.factors import ORDERS
from ninefold.conversion.layers import Choice, put, separable
from ninefold.limits import shown

if TYPE_CHECKING:
    from ninefold.conversion.result import Conversion

WEIGHTS, DESCRIPTION = "weights.safetensors", "conversion.json"
_FORMAT = 1


def save(conversion: Conversion, folder: Path) -> None:
    """Write `conversion` into `folder`, which must not exist; all of it or nothing."""
    from safetensors.torch import save_model

    check_new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        # Tensors that several names share are written once, and shared again when they are loaded.
        save_model(conversion.model, str(made / WEIGHTS))
        description = {
            "format": _FORMAT,
            "layers": [
                {**asdict(layer), "bias": _has_bias(conversion.model, layer.name)}
                for layer in conversion.layers
            ],
            "notes": conversion.notes,
            "milliseconds": dict(conversion.milliseconds),
            "accuracies": dict(conversion.accuracies),
        }
        (made / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        # Temporary folders, and what safetensors writes, are for the owner alone; this is as any other file.
        made.chmod(0o777 & ~_umask())
        (made / WEIGHTS).chmod(0o666 & ~_umask())
        os.rename(made, folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def load_converted(folder: str | Path, model: nn.Module) -> nn.Module:
    """Return a copy of `model` with the conversion that `save` wrote into `folder`: layers and weights.

    `model` is a fresh network of the kind that was converted; its own weights do not matter, and it is not
    touched. Raises FileNotFoundError for a folder without a conversion, ValueError for one that cannot be
    read or that belongs to another network.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
    folder = Path(folder)
    described, weights = _read(folder)
    made = copy.deepcopy(model)
    for name, choice, bias in described:
        try:
            convolution = made.get_submodule(name) if name else None
        except AttributeError:
            raise ValueError(_other(folder, f"it has no layer {shown(name)}")) from None
        if not isinstance(convolution, nn.Conv2d):
            raise ValueError(_other(folder, f"{shown(name)} is no Conv2d, but {type(convolution).__name__}"))
        # Before memory is taken for them: the weights of so many terms are in the file.
        if _weights(convolution, choice) > sum(tensor.numel() for tensor in weights.values()):
            raise ValueError(
                _other(folder, f"{shown(name)} in {choice.terms} terms has more weights than it")
            )
        put(made, name, separable(convolution, choice, bias=bias))
    _load(made, weights, folder)
    return made


def check_new(folder: Path) -> None:
    """Raise FileExistsError if there is something called `folder`."""
    if os.path.lexists(folder):
        raise FileExistsError(f"`folder` must be new, got {str(folder)!r}, which exists")


def _read(folder: Path) -> tuple[list[tuple[str, Choice, bool]], Mapping[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"`folder` must hold a conversion, got {str(folder)!r}, without {name}")
    try:
        written: Any = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if written["format"] != _FORMAT:
            raise ValueError(f"it has format {shown(written['format'])}, not {_FORMAT}")
        described = [
            (str(layer["name"]), _choice(layer), bool(layer["bias"]))
            for layer in written["layers"]
            if layer["terms"] is not None
        ]
        if len({name for name, *_ in described}) != len(described):
            raise ValueError("a layer stands in it twice")
        weights: Mapping[str, Tensor] = load_file(str(folder / WEIGHTS))
    except (ValueError, KeyError, TypeError, RecursionError, OSError, SafetensorError) as error:
        rule = "`folder` must hold a conversion that `save` wrote"
        raise ValueError(f"{rule}, got {str(folder)!r}: {_in_words(error)}") from error
    return described, weights


def _choice(layer: Mapping[str, Any]) -> Choice:
    terms, first = layer["terms"], layer["first"]
    if first not in ORDERS or type(terms) is not int or not 1 <= terms < 2**31:
        raise ValueError(f"{shown(terms)} terms, {shown(first)} first")
    return Choice(layer["first"], layer["terms"])


def _load(model: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    wanted = model.state_dict()
    for name, value in weights.items():
        if name not in wanted:
            raise ValueError(_other(folder, f"it has no weights {shown(name)}"))
        if wanted[name].shape != value.shape:
            here, there = tuple(wanted[name].shape), tuple(value.shape)
            raise ValueError(_other(folder, f"its {name} has shape {here}, the conversion's {there}"))
        if _kind(wanted[name]) != _kind(value):
            kinds = f"its {name} is {wanted[name].dtype}, the conversion's {value.dtype}"
            raise ValueError(_other(folder, kinds))
    addresses = {wanted[name].data_ptr() for name in weights}
    missing = [
        name for name, value in wanted.items() if name not in weights and value.data_ptr() not in addresses
    ]
    if missing:
        raise ValueError(_other(folder, f"the conversion has no weights {shown(missing[0])}"))
    model.load_state_dict(dict(weights), strict=False)


def _weights(convolution: nn.Conv2d, choice: Choice) -> int:
    """How many the two stages have that `separable` makes."""
    one, other = convolution.in_channels, convolution.out_channels
    if choice.first == "pointwise":
        one, other = other, one
    return one * choice.terms * (math.prod(convolution.kernel_size) + other // convolution.groups)


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    """Of a dtype what no rounding makes of another: numbers with a point, and complex ones."""
    return tensor.is_floating_point(), tensor.is_complex()


def _in_words(error: Exception) -> str:
    """An error of somebody else's code in one line, cut where it is long."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _other(folder: Path, why: str) -> str:
    return f"`model` must be the network that was converted into {str(folder)!r}: {why}"


def _has_bias(model: nn.Module, name: str) -> bool:
    layer = model.get_submodule(name)
    last = layer[-1] if isinstance(layer, nn.Sequential) else layer
    return getattr(last, "bias", None) is not None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
