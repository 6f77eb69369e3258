"""Lets torchvision's CUDA wheel import beside a CPU build of PyTorch: it has no CPU build of its own.

torchvision registers fake implementations for `nms` and `qnms`, which its compiled library would have defined
had it loaded. Networks need neither, so their schemas alone are enough. This file belongs to the
development environment (the Makefile copies it into .venv, where a .pth line imports it) and never to the
package. It costs nothing until torchvision is imported.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[object] = []  # a Library's definitions go when the object does


def _define_operators() -> None:
    import torch

    if _kept or torch.version.cuda is not None:
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + _SCHEMA)
    _kept.append(library)


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        _define_operators()
        super().exec_module(module)


class _Finder:
    def find_spec(self, fullname: str, path: list[str] | None, target: object = None) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path.insert(0, _Finder())
