"""A run learns, leaves what it says, and can be stopped anywhere and resumed to the same numbers."""

from __future__ import annotations

import json

import pytest
import torch

from ninefold.photos import Preparation
from ninefold.trainer import Interrupted, Settings, Tell, keeping, open_folder, train
from ninefold.trainer.settings import learning_rate

SMALL = Preparation(size=(16, 16))


class Stop(Tell):
    """Presses Ctrl-C after so many steps."""

    def __init__(self, steps):
        self.left = steps

    def step(self, share, loss):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def lines(output):
    told = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in each.items() if "second" not in name} for each in told]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_it_learns_and_leaves_what_it_says(digits, network, tmp_path):
    model = network()
    settings = Settings(epochs=12, batch=8, learning_rate=0.1, label_smoothing=0.05)
    values = train(model, open_folder(digits, SMALL), tmp_path / "run", settings)
    assert values["accuracy"] == 1.0 and values["epoch"] == 12 and values["step"] == 72
    told = lines(tmp_path / "run")
    assert len(told) == 12 and told[-1]["loss"] < 0.5 * told[0]["loss"]
    weights = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert model._compiled_call_impl is None, "what comes out is a plain model"


def test_in_kernels_and_in_pytorch_the_same(digits, network, tmp_path):
    told = []
    for fused in (True, False):
        settings = Settings(epochs=2, batch=8, fused=fused)
        train(network(), open_folder(digits, SMALL), tmp_path / str(fused), settings)
        told.append(lines(tmp_path / str(fused)))
    for ours, theirs in zip(*told, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("stop", [3, 6, 9])
def test_a_resumed_run_gives_the_same_numbers(digits, network, tmp_path, stop):
    settings = Settings(epochs=3, batch=8, save_every=2)
    data = open_folder(digits, SMALL)
    through = network()
    train(through, data, tmp_path / "through", settings)
    with pytest.raises(Interrupted, match=f"interrupted after step {stop}: resume it"):
        train(network(), data, tmp_path / "stopped", settings, tell=Stop(stop))
    assert keeping.load(tmp_path / "stopped" / "checkpoint.pt")["step"] == 2 * ((stop - 1) // 2)
    resumed = network()
    with torch.no_grad():
        resumed[0].weight.zero_()
    train(resumed, data, tmp_path / "stopped", settings, resume=True)
    assert lines(tmp_path / "stopped") == lines(tmp_path / "through")
    for name, tensor in through.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_write_that_fails_leaves_the_checkpoint_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    whole = {"model": {}, "optimiser": {}, "step": 1, "loss": 0.0, "images": 0, "last": {}, "settings": {}}
    keeping.save(path, whole)

    def fail(what, file):
        file.write(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        keeping.save(path, {"step": 2})
    assert keeping.load(path) == whole
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_what_cannot_be_resumed(digits, network, tmp_path):
    data, output = open_folder(digits, SMALL), tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="`output` must hold a checkpoint to resume"):
        train(network(), data, output, Settings(batch=8), resume=True)
    train(network(), data, output, Settings(epochs=1, batch=8))
    with pytest.raises(FileExistsError, match="`output` must not hold a run unless it is resumed"):
        train(network(), data, output, Settings(epochs=1, batch=8))
    with pytest.raises(ValueError, match="`batch` must be 8, as in the checkpoint, got 4"):
        train(network(), data, output, Settings(epochs=1, batch=4), resume=True)
    (output / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"must hold a checkpoint that can be read, got .*checkpoint\.pt"):
        train(network(), data, output, Settings(epochs=1, batch=8), resume=True)


def test_a_corrupt_picture_stops_the_run_or_is_left_out(pictures, network, tmp_path):
    broken = pictures / "train" / "dog" / "1.png"
    broken.write_bytes(b"nothing")
    data, left_out = open_folder(pictures, SMALL), []

    class Listen(Tell):
        def skipped(self, reason):
            left_out.append(reason)

    with pytest.raises(ValueError, match=f"must be a picture that can be read, got '{broken}'"):
        train(network(), data, tmp_path / "stop", Settings(epochs=1, batch=6), workers=1)
    settings = Settings(epochs=1, batch=6, unreadable="skip")
    train(network(), data, tmp_path / "skip", settings, tell=Listen())
    assert len(left_out) == 1 and str(broken) in left_out[0]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"learning_rate": -1.0}, "`learning_rate` must be non-negative and finite, got -1.0"),
        ({"label_smoothing": 1.0}, r"`label_smoothing` must be in \[0, 1\), got 1.0"),
        ({"unreadable": "ignore"}, "`unreadable` must be 'stop' or 'skip', got 'ignore'"),
        ({"batch": 64}, "`data` must have images for a batch of 64, got 48"),
        (
            {"learning_rate": 1e30, "warm_up": 0, "fused": False},
            "`learning_rate` must be smaller",
        ),
    ],
)
def test_settings_that_cannot_be(digits, network, tmp_path, changed, words):
    with pytest.raises(ValueError, match=words):
        train(network(), open_folder(digits, SMALL), tmp_path / "run", Settings(**{"batch": 8} | changed))


def test_a_network_with_too_few_outputs(digits, network, tmp_path):
    model = network()
    model[-1] = torch.nn.Linear(8, 2)
    with pytest.raises(ValueError, match=r"must give at least 3 numbers an image, one a class, got \(8, 2\)"):
        train(model, open_folder(digits, SMALL), tmp_path / "run", Settings(batch=8))


def test_the_learning_rate_rises_and_falls():
    settings = Settings(epochs=4, learning_rate=1.0, warm_up=1)
    rates = [learning_rate(settings, step, 10) for step in range(40)]
    assert rates[0] == 0.1 and rates[9] == 1.0 and rates[25] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.01


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda kept: kept.pop("optimiser"), "must hold a checkpoint of ninefold train"),
        (lambda kept: kept.update(step=-1), "must hold a checkpoint of ninefold train"),
        (lambda kept: kept.update(step="1"), "must hold a checkpoint of ninefold train"),
        (lambda kept: kept.update(model={"x": 1}), "whose weights are others"),
        (lambda kept: kept["model"].popitem(), "whose weights are others"),
        (lambda kept: kept["optimiser"].pop("state"), "whose optimiser is another"),
        (lambda kept: kept["optimiser"]["param_groups"].pop(), "whose optimiser is another"),
        (
            lambda kept: kept["optimiser"]["param_groups"][0].update(momentum="x"),
            "whose optimiser is another",
        ),
        (
            lambda kept: kept["optimiser"]["state"][0].update(momentum_buffer=torch.zeros(1, 2)),
            "whose optimiser is another",
        ),
    ],
)
def test_an_altered_checkpoint_is_refused(digits, network, tmp_path, alter, words):
    data, output = open_folder(digits, SMALL), tmp_path / "run"
    train(network(), data, output, Settings(epochs=1, batch=8))
    kept = keeping.load(output / "checkpoint.pt")
    alter(kept)
    torch.save(kept, output / "checkpoint.pt")
    with pytest.raises(ValueError, match=words):
        train(network(), data, output, Settings(epochs=1, batch=8), resume=True)


def test_lines_of_metrics_that_are_none_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        b'{"step": 1}',
        b"[1, 2]",
        b"3",
        b'{"epoch": 1}',
        b'{"step": "x"}',
        b"\xff\xfe",
        b"[" * 10**5,
        b'{"step": 9}',
    ]
    path.write_bytes(b"\n".join(lines))
    keeping.Metrics(path, step=3).tell(step=4)
    assert path.read_text().splitlines() == ['{"step": 1}', '{"step": 4}']
