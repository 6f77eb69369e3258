"""The weights stay the model's own: every change that leaves a trace is seen."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import ninefold.training
from ninefold.training import weights


@pytest.fixture
def packings(monkeypatch):
    """Count how often weights are packed."""
    seen = []
    fill = weights.Packed._fill

    def counted(self, known, tensors):
        seen.extend([len(tensors)] * (known.kernels is None))
        return fill(self, known, tensors)

    monkeypatch.setattr(weights.Packed, "_fill", counted)
    return seen


def load(model, images):
    model.load_state_dict({name: tensor * 0.9 for name, tensor in model.state_dict().items()})


def load_and_assign(model, images):
    model.load_state_dict({name: tensor * 0.9 for name, tensor in model.state_dict().items()}, assign=True)


def step(model, images):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.enable_grad():
        model(images).square().mean().backward()
    optimiser.step()


def fused_step(model, images):
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    with torch.enable_grad():
        model(images).square().mean().backward()
    versions = [parameter._version for parameter in model.parameters()]
    optimiser.step()
    # If PyTorch counts these edits one day, counting steps is no longer needed.
    assert versions == [parameter._version for parameter in model.parameters()]


def edit(model, images):
    with torch.no_grad():
        model.first[0].weight.mul_(0.5)


def edit_one_number(model, images):
    with torch.no_grad():
        model.classifier.bias[2] = 7.0


def change_statistics(model, images):
    model.train()(images)
    model.eval()


def change_variance(model, images):
    model.second[4].running_var.mul_(2)


def replace_parameter(model, images):
    model.second[3].weight = nn.Parameter(torch.randn_like(model.second[3].weight))


def replace_data(model, images):
    model.stem.weight.data = torch.randn_like(model.stem.weight)


def replace_buffer(model, images):
    model.first[1].running_mean = torch.randn(8)


CHANGES = [
    *(load, load_and_assign, step, fused_step, edit, edit_one_number, change_statistics, change_variance),
    *(replace_parameter, replace_data, replace_buffer),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_seen(model, images, compiled, agree, kernels, packings, change):
    fast = compiled(model)
    with torch.no_grad():
        before = agree(fast, model, images)
        agree(fast, model, images)
        assert kernels.since()
        change(model, images)
        after = agree(fast, model, images)
        assert not torch.equal(before, after)
        kernels.since()
        agree(fast, model, images)
        assert kernels.since(), "weights that stay are packed again"
        agree(fast, model, images)
    assert len(packings) == 2


def test_weights_that_change_between_every_two_calls_are_not_packed_again(
    model, images, compiled, agree, kernels, packings
):
    fast = compiled(model)
    with torch.no_grad():
        agree(fast, model, images)
        for _ in range(3):
            edit(model, images)
            kernels.since()
            agree(fast, model, images)
            assert not kernels.since()
    assert len(packings) == 1


def test_an_edit_through_data_is_seen_when_something_bumps_the_version(model, images, compiled, agree):
    fast = compiled(model)
    with torch.no_grad():
        agree(fast, model, images)
        before = fast(images)
        model.first[0].weight.data.mul_(0.5)
        torch.testing.assert_close(fast(images), before)
        model.stem.bias.add_(0)
        assert not torch.allclose(agree(fast, model, images), before)
        agree(fast, model, images)


def test_memory_that_comes_back_at_the_same_address_is_not_mistaken(model, images, compiled, agree):
    fast = compiled(model)
    shape = model.first[3].weight.shape
    with torch.no_grad():
        for _ in range(20):
            agree(fast, model, images)
            model.first[3].weight.data = torch.zeros(shape)
            model.first[3].weight.data = torch.randn(shape)


def test_shared_weights(compiled, agree, kernels, lively):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.pointwise = nn.Conv2d(8, 8, 1)
            self.other = nn.Conv2d(8, 8, 1)
            self.other.weight = self.pointwise.weight

        def forward(self, x):
            for _ in range(2):
                x = self.other(self.pointwise(self.depthwise(x)).relu())
            return x

    model = Twice().eval()
    fast = compiled(model)
    with torch.no_grad():
        agree(fast, model, torch.randn(2, 8, 9, 9))
        model.other.weight.mul_(2)
        for _ in range(2):
            agree(fast, model, torch.randn(2, 8, 9, 9))
    assert kernels.since()


def test_models_that_share_a_graph_have_kernels_of_their_own(model, images, compiled, agree, packings):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
        fast, faster = compiled(model), compiled(other)
        for _ in range(4):
            agree(fast, model, images)
            agree(faster, other, images)
    assert len(packings) == 2


def test_a_copy_of_a_compiled_model_goes_its_own_way(model, images, compiled, agree):
    fast = compiled(model)
    with torch.no_grad():
        agree(fast, model, images)
        twin = copy.deepcopy(fast)
        twin._orig_mod.first[0].weight.mul_(-1)
        for _ in range(3):
            ours = agree(fast, model, images)
            assert not torch.allclose(agree(twin, twin._orig_mod, images), ours)


def test_kernels_go_with_their_model(images, compiled, lively, model):
    made = []

    def backend(graph, inputs):
        run = ninefold.training.backend(graph, inputs)
        made.append(run.__self__)
        return run

    fast = torch.compile(model, backend=backend)
    with torch.no_grad():
        fast(images)
    (evaluation,) = made
    (packed,) = evaluation._weights._sets.values()
    # Dynamo keeps the compiled graph; the weights and their packed form go.
    watched = weakref.ref(packed.kernels.ninefold_stretch_0)
    del packed
    first = next(model.parameters()).untyped_storage()
    alive = torch.multiprocessing.reductions.StorageWeakRef(first)
    del first, fast
    for name in list(model._modules):
        del model._modules[name]
    gc.collect()
    assert evaluation._weights._sets == {}
    assert watched() is None
    assert alive.expired()


def test_parameters_can_be_swapped(model, images, compiled, agree):
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        fast = compiled(model)
        with torch.no_grad():
            agree(fast, model, images)
            gc.collect()
            load(model, images)
            for _ in range(2):
                agree(fast, model, images)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
