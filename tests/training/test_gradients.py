"""Who wants gradients gets them; who wants none, packed kernels: in one model, call by call."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn


def gradients(model, images):
    model.zero_grad()
    out = model(images)
    out.square().sum().backward()
    named = getattr(model, "_orig_mod", model).named_parameters()
    return {name: parameter.grad.clone() for name, parameter in named}


def test_a_call_in_eval_mode_has_gradients(model, images, compiled, kernels):
    plain = copy.deepcopy(model)
    fast = compiled(model)
    with torch.no_grad():
        fast(images)
    assert kernels.since()
    ours, theirs = gradients(fast, images), gradients(plain, images)
    assert not kernels.since()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-4)
    with torch.no_grad():
        assert not fast(images).requires_grad
    assert kernels.since()


def test_an_image_that_requires_gradients_through_frozen_weights(model, images, compiled, agree, kernels):
    model.requires_grad_(False)
    fast = compiled(model)
    agree(fast, model, images)
    assert kernels.since(), "nothing requires gradients, so none are wanted"
    ours, theirs = (images.clone().requires_grad_() for _ in range(2))
    fast(ours).sum().backward()
    model(theirs).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)
    assert not kernels.since()


def test_weights_that_are_frozen_and_thawed(model, images, compiled, kernels):
    fast = compiled(model.requires_grad_(False))
    assert not fast(images).requires_grad
    assert kernels.since()
    model.classifier.requires_grad_(True)
    assert fast(images).requires_grad
    assert not kernels.since()
    model.requires_grad_(False)
    assert not fast(images).requires_grad
    assert kernels.since()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_each_way_to_want_no_gradients(model, images, compiled, agree, kernels, mode):
    fast = compiled(model)
    with mode():
        agree(fast, model, images)
        out = fast(images)
    assert out.is_inference() == (mode is torch.inference_mode)
    assert kernels.since()
    torch.testing.assert_close(fast(images), out.clone(), rtol=1e-5, atol=1e-5)
    assert not kernels.since()


def test_forward_mode_gradients(model, images, compiled):
    from torch.autograd import forward_ad

    fast = compiled(model)
    with torch.no_grad():
        fast(images)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(images, torch.ones_like(images))
            ours, theirs = (forward_ad.unpack_dual(run(dual)).tangent for run in (fast, model))
    assert theirs is not None
    torch.testing.assert_close(ours, theirs)


def test_training_and_evaluation_in_turns(model, images, compiled, kernels):
    plain = copy.deepcopy(model)
    fast = compiled(model)
    pairs = [
        (fast, torch.optim.SGD(model.parameters(), 0.05)),
        (plain, torch.optim.SGD(plain.parameters(), 0.05)),
    ]
    for _ in range(3):
        results = []
        for run, optimiser in pairs:
            run.train()
            for _ in range(2):
                optimiser.zero_grad()
                run(images).square().mean().backward()
                optimiser.step()
            run.eval()
            with torch.no_grad():
                results.append([run(images) for _ in range(3)])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert kernels.since()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)


def test_training_mode_without_gradients_updates_statistics_once(model, images, compiled, kernels):
    plain = copy.deepcopy(model).train()
    fast = compiled(model.train())
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(fast(images), plain(images))
    assert torch.equal(model.first[1].running_mean, plain.first[1].running_mean)
    assert model.first[1].num_batches_tracked == 2
    assert not kernels.since()


def test_one_batch_norm_in_training_mode(model, images, compiled, agree, kernels):
    model.second[1].train()
    plain = copy.deepcopy(model)
    fast = compiled(model)
    with torch.no_grad():
        for _ in range(2):
            agree(fast, plain, images)
    assert torch.equal(model.second[1].running_var, plain.second[1].running_var)
    assert not kernels.since()


class Gradient(nn.Module):
    """Asks for gradients inside, whatever the caller asks."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            return self.block(x)


def test_gradients_asked_for_inside_a_model(model, images, compiled):
    asking = Gradient(model).eval()
    fast = compiled(asking)
    with torch.no_grad():
        assert asking(images).requires_grad
        out = fast(images)
    assert out.requires_grad
    out.sum().backward()
    assert model.stem.weight.grad is not None
