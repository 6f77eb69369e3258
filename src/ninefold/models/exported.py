"""`FILE.pt2`, what `torch.export.save` wrote, without trusting it.

`torch.export.load` unpickles what `weights_only` refuses, and loads compiled code that lies in the archive.
So the archive may hold nothing but a program, tensors and inputs; pickles go through `weights_only`.
"""

from __future__ import annotations

import io
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ninefold import limits
from ninefold.photos import Preparation

from .network import Network, check_file, in_words

# Of the archive's root folder; the .pt files are for `weights_only` to judge.
_KNOWN = re.compile(
    r"[^/]+/(models/[^/]+\.json|data/weights/(weight_\d+|[^/]+_weights_config\.json|[^/]+\.pt)"
    r"|data/constants/(tensor_\d+|[^/]+_constants_config\.json|[^/]+\.pt)|data/sample_inputs/[^/]+\.pt"
    r"|extra/.*|archive_format|archive_version|byteorder|version|\.data/(version|serialization_id))"
)
_RULE = "`model` must be a file that torch.export.save wrote"
_FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def load(path: Path) -> Network:
    """Read a program and the inputs it was exported with; nothing in it is run.

    Raises FileNotFoundError for no file, ValueError for one that is no such archive, or that holds pickled
    objects or compiled code.
    """
    check_file(path)
    _check_members(path)
    try:
        with _weights_only(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
            model = program.module()
    except Exception as error:
        raise ValueError(f"{_RULE}, got {str(path)!r}: {in_words(error)}") from error
    inputs, named = program.example_inputs or ((), {})
    if named:
        raise ValueError(
            f"`model` must take positional inputs, got {str(path)!r}, which wants "
            f"{limits.shown(sorted(named))}"
        )
    shapes = [tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor)]
    size = shapes[0][2:] if shapes and len(shapes[0]) == 4 else (224, 224)
    return Network(path.name, model, Preparation(size=(size[0], size[1])), None, True, tuple(inputs) or None)


def _check_members(path: Path) -> None:
    try:
        limits.check_archive(path)
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            for name in names:
                # Tensors in an archive of their own; the format before that takes memory as it is told.
                if name.endswith(".pt") and "/extra/" not in name:
                    limits.check_archive(io.BytesIO(archive.read(name)))
    except (*limits.DAMAGE, ValueError) as error:
        raise ValueError(f"{_RULE}, got {str(path)!r}: {in_words(error)}") from error
    strange = [name for name in names if not _KNOWN.fullmatch(name) or ".." in name.split("/")]
    if strange:
        raise ValueError(
            f"`model` must hold a program and tensors alone, got {str(path)!r} with "
            f"{limits.shown(strange[0])}, which is not read from a file"
        )


@contextmanager
def _weights_only() -> Iterator[None]:
    """PyTorch's own switch: `torch.load` refuses whatever `weights_only` refuses, whoever calls it."""
    before = os.environ.get(_FORCED)
    os.environ[_FORCED] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCED]
        else:
            os.environ[_FORCED] = before
