"""`FILE.onnx`, imported by onnx2torch; its external data may lie only in its own folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ninefold.photos import Preparation

from .network import Network, check_file, in_words, random_numbers

_REMEDY = "pip install --no-deps onnx2torch, and onnx, numpy, torchvision"
_SIDE = 224  # of an image whose size the file leaves open


def load(path: Path) -> Network:
    """Read a network and make an input for it; open sizes become 1, those of an image 224.

    Raises FileNotFoundError for no file, ImportError without onnx and onnx2torch, ValueError for a file that
    is no ONNX network, points outside its folder, or has an operator that cannot be imported.
    """
    check_file(path)
    try:
        import onnx
        from onnx2torch import convert
    except ImportError as error:
        raise ImportError(
            f"an ONNX file needs packages that are not installed ({error}): {_REMEDY}"
        ) from None
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise ValueError(f"`model` must be an ONNX file, got {str(path)!r}: {in_words(error)}") from error
    if not proto.graph.node:
        raise ValueError(f"`model` must be an ONNX file, got {str(path)!r}, which has no graph")
    for tensor in _tensors(proto.graph):
        _check_place(tensor, path)
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
        onnx.checker.check_model(proto)
        inputs = _inputs(proto.graph)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = convert(proto)
    except Exception as error:
        rule = "`model` must be an ONNX file that onnx2torch can import"
        raise ValueError(f"{rule}, got {str(path)!r}: {in_words(error)}") from error
    image = next((x.shape for x in inputs if isinstance(x, torch.Tensor) and x.dim() == 4), None)
    size = (image[2], image[3]) if image is not None else (_SIDE, _SIDE)
    return Network(path.name, model.eval(), Preparation(size), None, True, inputs)


def _tensors(graph: Any) -> Iterator[Any]:
    """Every tensor of a graph, those in attributes and in graphs within it too."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    yield from _tensors(inner)


def _check_place(tensor: Any, path: Path) -> None:
    """Refuse external data that does not lie in the file's folder, links followed."""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), None)
    if location is None:
        return
    folder = path.parent.resolve()
    place = (folder / location).resolve()
    if Path(location).is_absolute() or not place.is_relative_to(folder):
        raise ValueError(
            f"`model` must keep its external data in its own folder, got {str(path)!r}, which points to "
            f"{location!r}"
        )
    if not place.is_file():
        raise FileNotFoundError(f"`model` must have its external data beside it, got no {location!r}")


def _inputs(graph: Any) -> tuple[torch.Tensor, ...]:
    import onnx

    weights = {tensor.name for tensor in graph.initializer}
    found = []
    for given in graph.input:
        if given.name in weights:
            continue
        kind = given.type.tensor_type
        sizes = [dimension.dim_value for dimension in kind.shape.dim]
        image = len(sizes) == 4
        shape = tuple(
            size or (_SIDE if image and place > 1 else 3 if image and place == 1 else 1)
            for place, size in enumerate(sizes)
        )
        if kind.elem_type == onnx.TensorProto.FLOAT:
            found.append(random_numbers(shape))
        else:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            found.append(torch.zeros(shape, dtype=getattr(torch, str(dtype))))
    return tuple(found)
