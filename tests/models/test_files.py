"""Files from others: read where they are what they say, refused in one line where they are not, never run."""

from __future__ import annotations

import os
import pickle
import resource
import zipfile
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ninefold import models


class Hostile:
    """Unpickled, it makes a folder: the test looks whether it was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def exported(tmp_path: Path) -> Path:
    file = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(nn.Conv2d(3, 4, 3), (torch.zeros(2, 3, 20, 30),)), file)
    return file


def test_an_exported_program_brings_its_inputs(tmp_path):
    network = models.load(str(exported(tmp_path)))
    assert [tuple(x.shape) for x in network.examples] == [(2, 3, 20, 30)]
    assert network.model(*network.examples).shape == (2, 4, 18, 28)
    assert os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD") is None


def rewritten(file: Path, changed: dict[str, bytes]) -> Path:
    """A copy of an archive with some members replaced or added, by the end of their names."""
    out = file.with_name("changed.pt2")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        root = names[0].split("/")[0]
        for name in names:
            if name.removeprefix(f"{root}/") not in changed:
                new.writestr(name, old.read(name))
        for name, content in changed.items():
            new.writestr(f"{root}/{name}", content)
    return out


def test_a_pickle_inside_an_exported_program_is_not_loaded(tmp_path):
    folder = tmp_path / "made by the pickle"
    torch.save(Hostile(folder), tmp_path / "inputs.pt")
    content = (tmp_path / "inputs.pt").read_bytes()
    file = rewritten(exported(tmp_path), {"data/sample_inputs/model.pt": content})
    with pytest.raises(ValueError, match=r"`model` must be a file that torch\.export\.save wrote"):
        models.load(str(file))
    assert not folder.exists()
    # The pickle would do it, if it were loaded.
    torch.load(tmp_path / "inputs.pt", weights_only=False)
    assert folder.exists()


@pytest.mark.parametrize(
    "name",
    [
        "data/constants/opaque_obj_0",
        "data/constants/custom_obj_0",
        "data/aotinductor/model/model.so",
        "data/weights/../../code",
    ],
)
def test_an_exported_program_with_objects_or_code_is_not_read(tmp_path, name):
    file = rewritten(exported(tmp_path), {name: pickle.dumps(Hostile(tmp_path / "made"))})
    with pytest.raises(
        ValueError, match=r"`model` must hold a program and tensors alone, got .*which is not read"
    ):
        models.load(str(file))
    assert not (tmp_path / "made").exists()


def network(*, location: str | None = None) -> onnx.ModelProto:
    """Depthwise, ReLU, pointwise, mean, linear; the first weight is external if it has a location."""
    torch.manual_seed(0)
    weights = {
        "d": torch.randn(3, 1, 3, 3),
        "p": torch.randn(8, 3, 1, 1),
        "l": torch.randn(5, 8),
        "b": torch.randn(5),
    }
    tensors = [numpy_helper.from_array(weight.numpy(), name) for name, weight in weights.items()]
    if location is not None:
        tensors[0].ClearField("raw_data")
        tensors[0].data_location = TensorProto.EXTERNAL
        entry = tensors[0].external_data.add()
        entry.key, entry.value = "location", location
    nodes = [
        helper.make_node("Conv", ["x", "d"], ["1"], group=3, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["1"], ["2"]),
        helper.make_node("Conv", ["2", "p"], ["3"], kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["3"], ["4"]),
        helper.make_node("Flatten", ["4"], ["5"]),
        helper.make_node("Gemm", ["5", "l", "b"], ["y"], transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 16, 20])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])
    graph = helper.make_graph(nodes, "net", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_an_onnx_file_computes_what_its_weights_say(tmp_path):
    onnx.save(network(), tmp_path / "net.onnx")
    found = models.load(str(tmp_path / "net.onnx"))
    (x,) = found.examples
    assert x.shape == (1, 3, 16, 20) and found.trained and not found.model.training
    weights = {
        each.name: torch.from_numpy(numpy_helper.to_array(each).copy())
        for each in network().graph.initializer
    }
    wanted = nn.functional.conv2d(x, weights["d"], padding=1, groups=3).relu()
    wanted = nn.functional.conv2d(wanted, weights["p"]).mean((2, 3)) @ weights["l"].T + weights["b"]
    assert torch.allclose(found.model(x), wanted, atol=1e-5)


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_what_exporters_write_today_is_read(tmp_path, opset):
    proto = network()
    proto.opset_import[0].version = opset
    axes = numpy_helper.from_array(torch.tensor([2, 3]).numpy(), "axes")
    shape = numpy_helper.from_array(torch.tensor([-1, 8]).numpy(), "shape")
    if opset < 18:
        mean = helper.make_node("ReduceMean", ["3"], ["4"], axes=[2, 3])
    else:
        mean = helper.make_node("ReduceMean", ["3", "axes"], ["4"])
    more = {"allowzero": 1} if opset >= 14 else {}
    proto.graph.node[3].CopyFrom(mean)
    proto.graph.node[4].CopyFrom(helper.make_node("Reshape", ["4", "shape"], ["5"], **more))
    proto.graph.initializer.extend([axes, shape] if opset >= 18 else [shape])
    onnx.save(proto, tmp_path / "new.onnx")
    onnx.save(network(), tmp_path / "net.onnx")
    new, old = (models.load(str(tmp_path / name)) for name in ("new.onnx", "net.onnx"))
    wanted = old.model(*old.examples)
    assert torch.allclose(new.model(*new.examples), wanted, atol=1e-5)
    # Nothing in it decides by numbers what is run.
    exported = torch.export.export(new.model, new.examples).module()
    assert torch.allclose(exported(*new.examples), wanted, atol=1e-5)


def test_external_data_beside_an_onnx_file_is_read(tmp_path):
    (tmp_path / "weights.bin").write_bytes(torch.ones(27).numpy().tobytes())
    onnx.save(network(location="weights.bin"), tmp_path / "net.onnx")
    found = models.load(str(tmp_path / "net.onnx"))
    assert any(torch.equal(weight, torch.ones(3, 1, 3, 3)) for weight in found.model.parameters())


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "inside/../../secret.bin", "link.bin"])
def test_external_data_elsewhere_is_refused(tmp_path, location):
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(108))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    proto = network(location=location)
    (folder / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(
        ValueError, match=r"`model` must keep its external data in its own folder, got .*points to"
    ):
        models.load(str(folder / "net.onnx"))


def test_external_data_with_a_second_name_is_refused(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(108))
    (folder / "hard.bin").hardlink_to(tmp_path / "secret.bin")
    (folder / "net.onnx").write_bytes(network(location="hard.bin").SerializeToString())
    with pytest.raises(ValueError, match=r"external data of one name, got 'hard\.bin' with 2 links"):
        models.load(str(folder / "net.onnx"))


def test_external_data_in_an_attribute_is_looked_at_too(tmp_path):
    proto = network()
    tensor = network(location="../secret.bin").graph.initializer[0]
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["d2"], value=tensor))
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match="in its own folder"):
        models.load(str(tmp_path / "net.onnx"))


def test_missing_external_data_is_named(tmp_path):
    (tmp_path / "net.onnx").write_bytes(network(location="gone.bin").SerializeToString())
    with pytest.raises(FileNotFoundError, match=r"external data beside it, got no 'gone\.bin'"):
        models.load(str(tmp_path / "net.onnx"))


def test_an_onnx_file_that_is_none_or_not_importable_is_one_error(tmp_path):
    file = tmp_path / "net.onnx"
    for content in (b"not a network", b"", pickle.dumps({"a": 1})):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="`model` must be an ONNX file, got"):
            models.load(str(file))
    proto = network()
    proto.graph.node[1].op_type = "Unheard"
    proto.graph.node[1].domain = "nobody"
    proto.opset_import.append(helper.make_opsetid("nobody", 1))
    file.write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match="`model` must be an ONNX file that onnx2torch can import, got"):
        models.load(str(file))


@pytest.fixture
def source(tmp_path) -> str:
    (tmp_path / "mine.py").write_text("from torch import nn\ndef net(): return nn.Conv2d(3, 4, 3)\n")
    return f"{tmp_path / 'mine.py'}:net"


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_come_from_a_file(tmp_path, source, suffix, wrapped):
    from safetensors.torch import save_file

    state = {name: torch.full_like(tensor, 2) for name, tensor in nn.Conv2d(3, 4, 3).state_dict().items()}
    told = {f"module.{name}": tensor for name, tensor in state.items()} if wrapped else state
    file = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(told, file)
    else:
        torch.save({"state_dict": told, "epoch": 3} if wrapped else told, file)
    found = models.load(source, file)
    assert found.trained and all(torch.equal(found.model.state_dict()[name], state[name]) for name in state)


def test_weights_that_run_code_are_refused(tmp_path, source):
    torch.save({"weight": Hostile(tmp_path / "made")}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="`weights` must be a file of tensors by name, got"):
        models.load(source, tmp_path / "weights.pth")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"weight": torch.zeros(4, 3, 3, 3)}, "which lacks 'bias'"),
        (
            {"weight": torch.zeros(4, 3, 3, 3), "bias": torch.zeros(4), "x": torch.zeros(1)},
            "which has besides 'x'",
        ),
        (
            {"weight": torch.zeros(4, 3, 5, 5), "bias": torch.zeros(4)},
            r"got 'weight' of shape \(4, 3, 5, 5\) where",
        ),
        ([1, 2], "which holds something else"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, source, state, words):
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"`weights` must .*{words}"):
        models.load(source, tmp_path / "weights.pth")


def test_weights_that_are_no_such_file_are_refused(tmp_path, source):
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ValueError, match="`weights` must be a file of tensors by name, got"):
        models.load(source, tmp_path / "broken.safetensors")
    (tmp_path / "weights.h5").write_bytes(b"")
    with pytest.raises(ValueError, match=r"`weights` must end in \.safetensors or \.pth"):
        models.load(source, tmp_path / "weights.h5")
    with pytest.raises(FileNotFoundError, match="`weights` must be a file that is there"):
        models.load(source, tmp_path / "gone.pth")
    with pytest.raises(ValueError, match="`weights` must go with a network made by code"):
        models.load(str(exported(tmp_path)), tmp_path / "gone.pth")


def test_numbers_that_are_declared_and_not_there_are_refused_before_memory_is_taken(tmp_path):
    file = tmp_path / "net.onnx"
    for alter, words in (
        (
            lambda p: p.graph.initializer[0].dims.__setitem__(0, 2**40),
            r"whose 'd' of shape \(1099511627776, 1",
        ),
        (
            lambda p: p.graph.initializer[0].dims.__setitem__(0, -3),
            r"hold the numbers that it declares.*\(-3, 1",
        ),
        (lambda p: p.graph.initializer[0].ClearField("raw_data"), "has 0 at most"),
        (lambda p: _wanted(p, 2**20, 2**20), r"inputs of at most 268,435,456 numbers.*1048576, 1048576\)"),
        (lambda p: _wanted(p, -1, 4), "inputs of at most 268,435,456 numbers"),
    ):
        proto = network()
        alter(proto)
        file.write_bytes(proto.SerializeToString())
        with pytest.raises(ValueError, match=words):
            models.load(str(file))
    (tmp_path / "weights.bin").write_bytes(bytes(8))
    file.write_bytes(network(location="weights.bin").SerializeToString())
    with pytest.raises(ValueError, match=r"whose 'd' of shape \(3, 1, 3, 3\) has 16 at most"):
        models.load(str(file))


def _wanted(proto, height, width):
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    sizes[2].dim_value, sizes[3].dim_value = height, width


def test_every_place_of_external_data_is_looked_at(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(108))
    (folder / "weights.bin").write_bytes(bytes(108))
    twice = network(location="weights.bin")
    entry = twice.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "../secret.bin"  # the last one is read
    inside = network()
    tensor = network(location="../secret.bin").graph.initializer[0]
    inside.functions.add(name="f", domain="d").node.append(
        helper.make_node("Constant", [], ["c"], value=tensor)
    )
    for proto in (twice, inside):
        (folder / "net.onnx").write_bytes(proto.SerializeToString())
        with pytest.raises(ValueError, match="in its own folder"):
            models.load(str(folder / "net.onnx"))


def test_archives_that_unpack_to_more_are_refused(tmp_path, source):
    plain = exported(tmp_path)
    torch.save(nn.Conv2d(3, 4, 3).state_dict(), tmp_path / "weights.pth")
    for file in (plain, tmp_path / "weights.pth"):
        out = file.with_name(f"packed{file.suffix}")
        with zipfile.ZipFile(file) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
            root = old.namelist()[0].split("/")[0]
            for name in old.namelist():
                new.writestr(name, old.read(name))
            new.writestr(f"{root}/extra/zeros", bytes(10**7))
        argument = "model" if file is plain else "weights"
        with pytest.raises(
            ValueError, match=rf"`{argument}` must .*it unpacks to 10,\d+,\d+ bytes, and holds"
        ):
            models.load(*((str(out),) if file is plain else (source, out)))


def test_tensors_larger_than_their_file_are_refused(tmp_path, source):
    file = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(1000)}, file)
    with zipfile.ZipFile(file) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(file, "w") as new:
        for name, content in members.items():
            # In the pickle the shape (1000,) is M, two bytes, a tuple of one.
            larger = (
                content.replace(b"M\xe8\x03\x85", b"J\xff\xff\xff\x7f\x85")
                if name.endswith("pkl")
                else content
            )
            new.writestr(name, larger)
    with pytest.raises(ValueError, match=r"its tensors need 8,589,934,\d+ bytes, and it has \d,\d+"):
        models.load(source, file)


def test_weights_of_another_kind_of_numbers_are_refused(tmp_path, source):
    torch.save(
        {"weight": torch.zeros(4, 3, 3, 3, dtype=torch.complex64), "bias": torch.zeros(4)}, tmp_path / "c.pth"
    )
    with pytest.raises(ValueError, match="`weights` must fit the network, got 'weight' of complex64 numbers"):
        models.load(source, tmp_path / "c.pth")


def test_a_string_longer_than_its_file_is_refused_before_memory_is_taken(tmp_path, source):
    # An old file, whose pickle begins with a string (X) of 2³² - 1 bytes: MemoryError under this limit.
    (tmp_path / "weights.pth").write_bytes(b"\x80\x02X\xff\xff\xff\xffabc.")
    with limited(2**30), pytest.raises(ValueError, match="`weights` must be a file of tensors") as caught:
        models.load(source, tmp_path / "weights.pth")
    assert "MemoryError" not in str(caught.value)
    # The same with an archive behind it, which Python takes for one and PyTorch does not.
    with zipfile.ZipFile(tmp_path / "weights.pth", "a") as archive:
        archive.writestr("a", b"")
    with limited(2**30), pytest.raises(ValueError, match="`weights` must be a file of tensors") as caught:
        models.load(source, tmp_path / "weights.pth")
    assert "MemoryError" not in str(caught.value)
    state = nn.Conv2d(3, 4, 3).state_dict()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    found = models.load(source, tmp_path / "old.pth").model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@contextmanager
def limited(room):
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_words_of_a_file_are_cut_where_they_are_long(tmp_path):
    file = rewritten(exported(tmp_path), {"x" * 5000: b""})
    with pytest.raises(ValueError, match=r"with 'net/xxx.*xxx\.\.\., which is not read") as caught:
        models.load(str(file))
    assert len(str(caught.value)) < 500
    proto = network(location="../" + "y" * 5000)
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match=r"points to '\.\./yyy") as caught:
        models.load(str(tmp_path / "net.onnx"))
    assert len(str(caught.value)) < 500
