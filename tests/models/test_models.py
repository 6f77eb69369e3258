from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from ninefold import models, photos

EGYPTIAN_CAT, ESPRESSO = 285, 967


@pytest.fixture(scope="module")
def lite0() -> models.Network:
    return models.load("efficientnet-lite0")


@pytest.mark.parametrize(("photo", "label"), [("chelsea", EGYPTIAN_CAT), ("coffee", ESPRESSO)])
def test_the_demo_network_knows_its_photographs(lite0: models.Network, photo: str, label: int) -> None:
    with torch.no_grad():
        logits = lite0.model(photos.prepare(photos.read(photo), lite0.preparation))
    assert logits.argmax().item() == label


def test_classes_have_names(lite0: models.Network) -> None:
    assert lite0.classes is not None and len(lite0.classes) == 1000
    assert lite0.classes[EGYPTIAN_CAT] == "Egyptian cat" and lite0.classes[ESPRESSO] == "espresso"
    assert lite0.trained and not lite0.model.training


@pytest.mark.parametrize("name", ["timm:test_efficientnet", "torchvision:shufflenet_v2_x0_5"])
def test_random_weights_are_the_same_each_time(name: str) -> None:
    state = torch.get_rng_state()
    first, second = models.load(name), models.load(name)
    assert not first.trained and not first.model.training
    pairs = zip(first.model.parameters(), second.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        assert first.model(first.example()).shape == (1, 1000)


def test_a_function_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n"
        "def net(): return nn.Conv2d(3, 8, 3)\n"
        "def number(): return 3\n"
        "def broken(): raise KeyError('gone')\n"
        "def wants(size): return nn.Identity()\n"
    )
    network = models.load(f"{file}:net")
    assert network.name == "mine.py:net" and network.model(network.example()).shape == (1, 8, 222, 222)
    with pytest.raises(ValueError, match=r"`model` must name a function of .*got 'nett'; did you mean net"):
        models.load(f"{file}:nett")
    with pytest.raises(ValueError, match=r"`model` must return an nn\.Module, got int"):
        models.load(f"{file}:number")
    for function, reason in (("broken", "KeyError: 'gone'"), ("wants", "TypeError: wants")):
        with pytest.raises(ValueError, match=f"must be a function that runs without arguments.*{reason}"):
            models.load(f"{file}:{function}")
    file.write_text("1 +")
    with pytest.raises(ValueError, match=r"`model` must be a file that runs.*SyntaxError"):
        models.load(f"{file}:net")


def test_an_exported_program(tmp_path: Path) -> None:
    file = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(torch.nn.Conv2d(3, 4, 3), (torch.zeros(1, 3, 20, 30),)), file)
    network = models.load(str(file))
    assert network.preparation.size == (20, 30)
    assert network.model(network.example()).shape == (1, 4, 18, 28)
    file.write_bytes(b"not a program")
    with pytest.raises(ValueError, match=r"`model` must be a file that torch\.export\.save wrote"):
        models.load(str(file))


def test_a_function_may_bring_its_inputs(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "def net(): return torch.nn.Conv1d(4, 8, 3), (torch.zeros(2, 4, 9),)\n"
        "def bad(): return torch.nn.Conv1d(4, 8, 3), 9\n"
    )
    network = models.load(f"{file}:net")
    assert network.model(*network.examples).shape == (2, 8, 7)
    with pytest.raises(ValueError, match=r"`model` must return a module and a tuple of inputs, got int"):
        models.load(f"{file}:bad")


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("timm:efficientnet_lite9", ValueError, "must be one of timm's.*did you mean.*efficientnet_lite"),
        ("torchvision:mobilenet_v9", ValueError, "must be one of torchvision's.*did you mean.*mobilenet_v2"),
        ("efficientnet-lite1", ValueError, r"timm:NAME.*did you mean efficientnet-lite0\?"),
        ("nothing like it", ValueError, r"FILE\.py:FUNCTION, got 'nothing like it'$"),
        ("absent.onnx", FileNotFoundError, r"must be a file that is there, got 'absent\.onnx'"),
        ("absent.pt2", FileNotFoundError, r"must be a file that is there, got 'absent\.pt2'"),
        ("absent.py:net", FileNotFoundError, r"must be a file that is there, got 'absent\.py'"),
        (3, TypeError, "must be a name, got int"),
    ],
)
def test_an_unknown_network_is_one_clear_error(name: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match="`model` .*" + words):
        models.load(name)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match=r"efficientnet-lite0 needs a package.*pip install --no-deps"):
        models.load("efficientnet-lite0")
