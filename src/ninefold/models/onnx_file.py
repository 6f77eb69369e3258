"""`FILE.onnx`, imported by onnx2torch; its external data may lie only in its own folder."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ninefold.limits import shown
from ninefold.photos import Preparation

from .network import Network, check_file, in_words, random_numbers

_REMEDY = "pip install --no-deps onnx2torch, and onnx, numpy, torchvision"
_KNOWN = 17  # the operator set that onnx2torch knows whole
_SIDE = 224  # of an image whose size the file leaves open
_LARGEST = 2**28  # numbers of one input


def load(path: Path) -> Network:
    """Read a network and make an input for it; open sizes become 1, those of an image 224.

    Raises FileNotFoundError for no file, ImportError without onnx and onnx2torch, ValueError for a file that
    is no ONNX network, points outside its folder, or has an operator that cannot be imported.
    """
    check_file(path)
    try:
        import onnx
        import onnx2torch  # noqa: F401
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
    for graph in (proto.graph, *proto.functions, *(each.algorithm for each in proto.training_info)):
        for tensor in _tensors(graph):
            _check_tensor(tensor, path)
    for given in proto.graph.input:
        _check_size(given, path)
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
        onnx.checker.check_model(proto)
        inputs = _inputs(proto.graph)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = _imported(proto)
    except Exception as error:
        rule = "`model` must be an ONNX file that onnx2torch can import"
        raise ValueError(f"{rule}, got {str(path)!r}: {in_words(error)}") from error
    image = next((x.shape for x in inputs if isinstance(x, torch.Tensor) and x.dim() == 4), None)
    size = (image[2], image[3]) if image is not None else (_SIDE, _SIDE)
    return Network(path.name, model.eval(), Preparation(size), None, True, inputs)


def _imported(proto: Any) -> torch.fx.GraphModule:
    """The network as a module; a newer one than onnx2torch knows is first written in an older language.

    PyTorch's exporter writes `allowzero` into every reshape, which onnx2torch refuses; it says something only
    where a wanted size is zero.
    """
    from onnx import numpy_helper, version_converter
    from onnx2torch import convert

    shapes = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        wanted = shapes.get(node.input[1]) if node.op_type == "Reshape" and len(node.input) > 1 else None
        if wanted is not None and (numpy_helper.to_array(wanted) != 0).all():
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
    try:
        model = convert(proto)
    except NotImplementedError:
        if all(language.version <= _KNOWN for language in proto.opset_import if not language.domain):
            raise
        model = convert(version_converter.convert_version(proto, _KNOWN))
    _settle_shapes(model)
    return model


def _settle_shapes(model: torch.fx.GraphModule) -> None:
    """Give each reshape the sizes that the file fixes: as a tensor they would decide what is run.

    `torch.export` cannot capture such a network, and counting would find copies that nobody needs.
    """
    modules = dict(model.named_modules())
    for node in list(model.graph.nodes):
        if node.op != "call_module" or type(modules[node.target]).__name__ != "OnnxReshape":
            continue
        x, shape = node.args
        if shape.op != "get_attr":
            continue
        sizes = model.get_buffer(shape.target).tolist()
        if 0 in sizes:
            continue
        with model.graph.inserting_before(node):
            settled = model.graph.call_function(torch.reshape, (x, tuple(sizes)))
        node.replace_all_uses_with(settled)
        model.graph.erase_node(node)
    model.graph.eliminate_dead_code()
    model.recompile()


def _tensors(graph: Any) -> Iterator[Any]:
    """Every tensor of a graph, those in attributes and in graphs within it too."""
    yield from getattr(graph, "initializer", ())
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    yield from _tensors(inner)


def _check_tensor(tensor: Any, path: Path) -> None:
    """Refuse a tensor that declares more numbers than there are for it, in the file or outside."""
    held = [_check_place(entry.value, path) for entry in tensor.external_data if entry.key == "location"]
    fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
    # The smallest types put two numbers into a byte, or four into a value.
    there = 2 * (sum(held) + len(tensor.raw_data)) + 4 * sum(len(getattr(tensor, name)) for name in fields)
    shape = tuple(tensor.dims)
    if any(size < 0 for size in shape) or math.prod(shape) > max(there, not shape):
        raise ValueError(
            f"`model` must hold the numbers that it declares, got {str(path)!r}, whose {shown(tensor.name)} "
            f"of shape {_shown(shape)} has {there:,} at most"
        )


def _check_size(given: Any, path: Path) -> None:
    """Refuse an input that is declared larger than any image."""
    shape = tuple(dimension.dim_value for dimension in given.type.tensor_type.shape.dim)
    if any(size < 0 for size in shape) or math.prod(max(size, 1) for size in shape) > _LARGEST:
        raise ValueError(
            f"`model` must take inputs of at most {_LARGEST:,} numbers, got {str(path)!r}, whose "
            f"{shown(given.name)} has shape {_shown(shape)}"
        )


def _shown(shape: tuple[int, ...]) -> str:
    return str(shape) if len(shape) <= 8 else f"{str(shape[:8])[:-1]}, ...)"


def _check_place(location: str, path: Path) -> int:
    """Refuse external data that does not lie in the file's folder, links followed, or has a second name.

    A hard link shows no other folder, so that a file with several names may be anybody's. Returns its bytes.
    """
    if "\0" in location:
        raise ValueError(
            f"`model` must have external data in a file, got {str(path)!r} with {shown(location)}"
        )
    folder = path.parent.resolve()
    place = (folder / location).resolve()
    if Path(location).is_absolute() or not place.is_relative_to(folder):
        raise ValueError(
            f"`model` must keep its external data in its own folder, got {str(path)!r}, which points to "
            f"{shown(location)}"
        )
    if not place.is_file():
        raise FileNotFoundError(f"`model` must have its external data beside it, got no {shown(location)}")
    found = place.stat()
    if found.st_nlink > 1:
        links = found.st_nlink
        raise ValueError(
            f"`model` must have external data of one name, got {shown(location)} with {links} links"
        )
    return found.st_size


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
