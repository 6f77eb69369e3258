"""`for_training` and `restore`: in place, undone without a trace; `summary` says what became of a model."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import ninefold
from ninefold import training


def test_the_model_stays_what_it_was(model, images, chains):
    names, modules = list(model.state_dict()), list(model.modules())
    assert ninefold.for_training(model) is model
    model.train()(images).sum().backward()
    assert chains.since() == 2
    assert list(model.state_dict()) == names
    assert list(model.modules()) == modules
    assert type(model).__name__ == "Separable"


def test_the_default_dtype_is_nobodys_business(model, images, chains, request):
    truth = copy.deepcopy(model).double()
    request.getfixturevalue("doubles")
    for each, x in ((truth, images.double()), (ninefold.for_training(model), images)):
        each.train()(x).square().mean().backward()
    assert chains.since() == 2
    for ours, theirs in zip(model.parameters(), truth.parameters(), strict=True):
        assert ours.grad.dtype is torch.float32
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5)


def test_the_default_device_is_nobodys_business(model, images, chains, request):
    truth = copy.deepcopy(model).double()
    ninefold.for_training(model)
    model.train()(images)
    chains.since()
    model.load_state_dict(truth.state_dict())
    request.getfixturevalue("elsewhere")
    for each, x in ((truth, images.double()), (model, images)):
        each.train()(x).square().mean().backward()
    assert chains.since() == 2
    for ours, theirs in zip(model.parameters(), truth.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5)


def test_restore_undoes_it(model, images, chains):
    before = set(vars(model))
    ninefold.for_training(model)
    assert ninefold.restore(model) is model
    model.train()(images).sum().backward()
    assert not chains.since()
    assert set(vars(model)) == before
    assert ninefold.restore(model) is model


def test_copies_and_pickles_are_plain(model, images, chains):
    ninefold.for_training(model)
    wanted = model(images)
    chains.since()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(images), wanted)
        assert not chains.since()


def test_two_models_of_one_class_have_their_own_summaries(model, images):
    other = copy.deepcopy(model)
    assert training.summary(model) == "no graph of this model has been compiled for training yet"
    ninefold.for_training(model)(images)
    assert training.summary(model).splitlines() == [
        "4 of 5 convolutions train in 2 fused chains",
        "  fused    first.0 + first.3",
        "  fused    second.0 + second.3",
        "  PyTorch  stem: neither depthwise nor followed by batch-norm",
    ]
    assert training.summary(other) == "no graph of this model has been compiled for training yet"
    ninefold.for_training(other)(images)
    assert training.summary(other) == training.summary(model)


@pytest.mark.parametrize("function", [ninefold.for_training, ninefold.restore, training.summary])
def test_what_is_no_module(function):
    with pytest.raises(TypeError, match=r"`model` must be an nn\.Module, got str"):
        function("mobilenet")


def test_another_dtype_for_activations(model):
    words = "`activations` must be None, 'float32' or 'bfloat16', got 'float16'"
    with pytest.raises(ValueError, match=words):
        ninefold.for_training(model, activations="float16")
    ninefold.for_training(model, activations="bfloat16")


def test_what_is_no_dtype_of_activations(model, images):
    with pytest.raises(TypeError, match=r"^`activations` must be None or a string, got tuple$"):
        ninefold.for_training(model, (images,))


def test_an_unknown_option(model, images):
    fast = torch.compile(model, backend="ninefold", options={"speed": 3})
    with pytest.raises(Exception, match="`options` must have no other keys than 'activations'"):
        fast(images)


def test_a_frozen_network_does_not_train(images):
    fast = ninefold.for_inference(nn.Conv2d(3, 4, 3).eval(), images)
    with pytest.raises(ValueError, match="`model` must be the original"):
        ninefold.for_training(fast)


def test_a_depth_multiplier_stays_in_pytorch_alone():
    """The chains before it and behind it train in kernels."""
    model = nn.Sequential(
        nn.Conv2d(8, 16, 1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, groups=16),
        nn.Conv2d(32, 16, 1),
        nn.BatchNorm2d(16),
    )
    theirs = copy.deepcopy(model).double()
    x = torch.randn(4, 8, 10, 10)
    ours = ninefold.for_training(model)
    for network, given in ((ours, x), (theirs, x.double())):
        network(given).square().mean().backward()
    assert training.summary(ours).splitlines() == [
        "2 of 3 convolutions train in 2 fused chains",
        "  fused    0",
        "  fused    4",
        "  PyTorch  3: a depth multiplier",
    ]
    for got, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(got.grad.double(), wanted.grad, rtol=1e-3, atol=1e-6)


SCRIPT = """
import torch
import ninefold
net = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), torch.nn.BatchNorm2d(8))
loss = ninefold.for_training(net)(torch.randn(2, 8, 8, 8)).sum()
loss.backward()
print(ninefold.training.summary(net).splitlines()[0])
"""


def test_a_script_that_trains_ends_without_a_word():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert "1 fused chain" in done.stdout and not done.stderr
