"""What reads files that nobody vouches for, each as a function of bytes: what `make fuzz` feeds.

To add a loader, write its function and its seeds, and add a row to LOADERS. A function puts the bytes where
its loader looks for them and calls it. Archives are fed as their members (`pack`): a change to a checked
archive as a whole ends at its checksum, mostly.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ninefold import datasets, models, photos
from ninefold.conversion import saving
from ninefold.inference import remember
from ninefold.models import weights
from ninefold.trainer import keeping

# What a loader may raise, in one line; the command line says it after "ninefold: error:".
ALLOWED = (ValueError, TypeError, FileNotFoundError)

_RAW, _PACKED = b"r", b"p"  # the first byte: an archive as it is, or its members


@dataclass(frozen=True)
class Loader:
    """`feed` takes bytes and an empty folder; `seeds` makes inputs from which every part can be reached."""

    feed: Callable[[bytes, Path], Any]
    seeds: Callable[[Path], list[bytes]]


def network() -> nn.Sequential:
    """Small, and with a layer of each kind that a file may speak of."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3), nn.Conv2d(3, 2, 1)
    )


def pack(members: dict[str, bytes]) -> bytes:
    """Members by name as bytes: lengths, names, contents."""
    return _PACKED + b"".join(
        struct.pack("<HI", len(name.encode()), len(content)) + name.encode() + content
        for name, content in members.items()
    )


def unpack(data: bytes) -> list[tuple[str, bytes]]:
    """What `pack` packed, or as much of it as was left."""
    found, at = [], 1
    while at + 6 <= len(data):
        name, content = struct.unpack_from("<HI", data, at)
        at += 6
        found.append((data[at : at + name].decode("utf-8", "replace"), data[at + name : at + name + content]))
        at += name + content
    return found


def archive(data: bytes) -> bytes:
    """The zip file that the bytes stand for."""
    if data[:1] != _PACKED:
        return data[1:]
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as out:
        warnings.simplefilter("ignore")  # of two members of one name
        for name, content in unpack(data):
            out.writestr(zipfile.ZipInfo(name or "none"), content)
    return file.getvalue()


def as_members(content: bytes) -> bytes:
    """A zip file as `archive` takes it."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return pack({name: file.read(name) for name in file.namelist()})


def _onnx(data: bytes, folder: Path) -> None:
    (folder / "net.onnx").write_bytes(data)
    (folder / "weights.bin").write_bytes(bytes(256))
    models.load(str(folder / "net.onnx"))


def _exported(data: bytes, folder: Path) -> None:
    (folder / "net.pt2").write_bytes(archive(data))
    models.load(str(folder / "net.pt2"))


def _pickled(data: bytes, folder: Path) -> None:
    (folder / "weights.pth").write_bytes(archive(data))
    weights.load_into(network(), folder / "weights.pth")


def _safetensors(data: bytes, folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(data)
    weights.load_into(network(), folder / "weights.safetensors")


def _converted(data: bytes, folder: Path) -> None:
    for (_, content), name in zip(unpack(data), (saving.DESCRIPTION, saving.WEIGHTS), strict=False):
        (folder / name).write_bytes(content)
    model = saving.load_converted(folder, network())
    with torch.no_grad():
        model.eval()(torch.zeros(1, 2, 6, 6))


def _checkpoint(data: bytes, folder: Path) -> None:
    (folder / keeping.CHECKPOINT).write_bytes(archive(data))
    keeping.load(folder / keeping.CHECKPOINT)


def _metrics(data: bytes, folder: Path) -> None:
    (folder / keeping.METRICS).write_bytes(data)
    keeping.Metrics(folder / keeping.METRICS, step=3).tell(step=4)


def _idx(data: bytes, folder: Path) -> None:
    suffix = ".gz" if data[:1] == b"z" else ""
    (folder / f"train-images-idx3-ubyte{suffix}").write_bytes(data[1:])
    labels = bytes([0, 0, 8, 1, 0, 0, 0, 2, 0, 1])
    (folder / "train-labels-idx1-ubyte").write_bytes(labels)
    found, _ = datasets.load(folder, photos.Preparation((8, 8), 1.0, (0.0,), (1.0,)))
    found[0]


def _picture(data: bytes, folder: Path) -> None:
    kinds = ("png", "jpg", "bmp", "gif", "webp", "tif", "ppm")
    (folder / f"it.{kinds[data[0] % len(kinds)] if data else 'png'}").write_bytes(data[1:])
    found, _ = datasets.load(folder, photos.Preparation((8, 8)))
    found[0]


def _tuned(data: bytes, folder: Path) -> None:
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    try:
        remember.file().parent.mkdir()
        remember.file().write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            remember.load()
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def _onnx_seeds(folder: Path) -> list[bytes]:
    from onnx import TensorProto, helper, numpy_helper

    generator = torch.Generator().manual_seed(0)
    shapes = {"d": (3, 1, 3, 3), "p": (4, 3, 1, 1), "l": (2, 4)}
    held = {name: torch.randn(shape, generator=generator).numpy() for name, shape in shapes.items()}
    tensors = [numpy_helper.from_array(array, name) for name, array in held.items()]
    nodes = [
        helper.make_node("Conv", ["x", "d"], ["1"], group=3, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["1"], ["2"]),
        helper.make_node("Conv", ["2", "p"], ["3"], kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["3"], ["4"]),
        helper.make_node("Reshape", ["4", "s"], ["5"], allowzero=1),
        helper.make_node("Gemm", ["5", "l"], ["y"], transB=1),
    ]
    tensors.append(numpy_helper.from_array(torch.tensor([-1, 4]).numpy(), "s"))
    ends = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
    )
    found = []
    for opset in (13, 17, 20):
        flat = helper.make_node("Flatten", ["4"], ["5"])  # before Reshape had `allowzero`
        some = nodes if opset > 13 else [*nodes[:4], flat, nodes[5]]
        graph = helper.make_graph(some, "net", ends[0], ends[1], tensors)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        found.append(proto.SerializeToString())
    outside = proto.graph.initializer[0]
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    entry = outside.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    return [*found, proto.SerializeToString()]


def _exported_seeds(folder: Path) -> list[bytes]:
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.ReLU())
    program = torch.export.export(model, (torch.zeros(1, 2, 3, 3),))
    torch.export.save(program, folder / "net.pt2")
    file = io.BytesIO()
    with zipfile.ZipFile(folder / "net.pt2") as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():  # without the places of this machine's files
            new.writestr(
                name, re.sub(rb'"stack_trace": "(\\.|[^"\\])*"', b'"stack_trace": ""', old.read(name))
            )
    return [as_members(file.getvalue()), _RAW + file.getvalue()]


def _pickled_seeds(folder: Path) -> list[bytes]:
    found = []
    state = network().state_dict()
    for name, what, new in (("a", {"state_dict": state}, True), ("b", state, True), ("c", state, False)):
        torch.save(what, folder / name, _use_new_zipfile_serialization=new)
        content = (folder / name).read_bytes()
        found.append(as_members(content) if new else _RAW + content)
    return found


def _safetensors_seeds(folder: Path) -> list[bytes]:
    from safetensors.torch import save

    return [save(dict(network().state_dict())), save({"0.weight": torch.zeros(4, 2, 3, 3)})]


def _converted_seeds(folder: Path) -> list[bytes]:
    import ninefold

    torch.manual_seed(0)
    x, found = torch.randn(2, 2, 6, 6), []
    for options in ({"terms": 1}, {"terms": 2, "layers": ["2"]}):
        made = ninefold.convert(network(), x, **options)
        made.save(folder / f"made{len(found)}")
        kept = folder / f"made{len(found)}"
        found.append(
            pack({name: (kept / name).read_bytes() for name in (saving.DESCRIPTION, saving.WEIGHTS)})
        )
    return found


def _checkpoint_seeds(folder: Path) -> list[bytes]:
    model = nn.Linear(2, 2)
    state: dict[str, Any] = {
        "model": model.state_dict(),
        "optimiser": torch.optim.SGD(model.parameters(), 0.1, momentum=0.9).state_dict(),
        **{"step": 3, "loss": 0.5, "images": 6, "last": {"loss": 1.5}, "settings": {"batch": 2}},
    }
    keeping.save(folder / "it.pt", state)
    return [as_members((folder / "it.pt").read_bytes())]


def _idx_seeds(folder: Path) -> list[bytes]:
    plain = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3]) + bytes(range(18))
    return [b"p" + plain, b"z" + gzip.compress(plain, mtime=0)]


def _picture_seeds(folder: Path) -> list[bytes]:
    import PIL.Image

    picture = PIL.Image.frombytes("RGB", (5, 4), bytes(range(60)))
    found = []
    for place, kind in enumerate(("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")):
        file = io.BytesIO()
        picture.save(file, kind)
        found.append(bytes([place]) + file.getvalue())
    return found


def _tuned_seeds(folder: Path) -> list[bytes]:
    return [json.dumps({"format": "ninefold tune 1", "entries": {"a": {"fused": 0.5}}}).encode()]


def _metrics_seeds(folder: Path) -> list[bytes]:
    return [b'{"epoch": 1, "step": 2, "loss": 0.5}\n{"epoch": 2, "step": 4}\n']


LOADERS: dict[str, Loader] = {
    "onnx": Loader(_onnx, _onnx_seeds),
    "exported": Loader(_exported, _exported_seeds),
    "pickled": Loader(_pickled, _pickled_seeds),
    "safetensors": Loader(_safetensors, _safetensors_seeds),
    "converted": Loader(_converted, _converted_seeds),
    "checkpoint": Loader(_checkpoint, _checkpoint_seeds),
    "metrics": Loader(_metrics, _metrics_seeds),
    "idx": Loader(_idx, _idx_seeds),
    "picture": Loader(_picture, _picture_seeds),
    "tuned": Loader(_tuned, _tuned_seeds),
}
