"""`make networks`: thirty timm networks against PyTorch, in inference and in one training step.

Weights are random and batch-norm statistics are near those of random images, as a trained network's are near
its data's: with any others activations grow from layer to layer, and fbnetv3_b's output, 2,000 then, was
off by 17 % in PyTorch itself. Compared are the output, and of a training step the loss, every gradient and
every running statistic, each with float64. How far a float32 may be from it is measured, not asserted:
PyTorch itself computes the same in four ways that differ in the last bits (both layouts; the image as it is,
and with the last place of its numbers moved), and no tensor of ours may be further off than a few times the
furthest of the four.

A last bit may put a value on the other side of an activation's kink, and from there the whole step differs:
PyTorch's gradients of mobilenetv2_050 are off by 3e-3 of their largest number, by 0.2 at worst. Where ours
met a kink that none of the four did, PyTorch gets further draws of last bits, up to 32 in all. And the step
is taken once more with every kinked activation replaced by a smooth one: there they are off by 8e-5 at worst.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn

import ninefold
import record

NETWORKS = (
    *("mobilenetv1_100", "mobilenetv1_125", "mobilenetv2_035", "mobilenetv2_050", "mobilenetv2_100"),
    *("mobilenetv2_110d", "mobilenetv2_140", "mobilenetv3_small_050", "mobilenetv3_small_100"),
    *("mobilenetv3_large_100", "mobilenetv4_conv_small", "mobilenetv4_conv_medium", "mnasnet_050"),
    *(
        "mnasnet_100",
        "mnasnet_small",
        "semnasnet_075",
        "semnasnet_100",
        "efficientnet_lite0",
        "efficientnet_b0",
    ),
    *("tf_efficientnet_lite0", "tf_efficientnetv2_b0", "fbnetc_100", "fbnetv3_b", "spnasnet_100"),
    *("ghostnet_050", "ghostnet_100", "convnext_atto", "xception41", "resnet18", "regnetx_002"),
)
_TIMES = 4.0  # the furthest of PyTorch's own
_DRAWS = 32  # of last bits, before ours counts as wrong
_LEAST = 1e-6  # of a tensor's largest number: float32 has seven digits
_CANCELS = (
    1e-9  # of the largest gradient: what batch-norm behind a layer takes away again, zero but for rounding
)
_SMOOTH: dict[str, type[nn.Module]] = {
    **dict.fromkeys(("relu", "relu6", "hardswish"), nn.SiLU),
    "hardsigmoid": nn.Sigmoid,
}


def main() -> int:
    """Compare; 0 if every network agreed."""
    parser = argparse.ArgumentParser(prog="make networks", description=__doc__)
    parser.add_argument("--network", action="append", help="this one; may be given again")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--inference-only", action="store_true")
    parser.add_argument("--write", action="store_true", help="what was counted into results.json")
    options = parser.parse_args()
    import timm

    warnings.simplefilter("ignore")
    # What falls back to PyTorch agrees with it: that would prove nothing.
    warnings.filterwarnings("error", message="for_inference|torch.compile")
    warnings.filterwarnings("ignore", message="for_inference: rounding decides")
    names = options.network or NETWORKS
    compared = failed = tensors = 0
    checks: list[Callable[[nn.Module, torch.Tensor], Found]] = [_inference]
    if not options.inference_only:
        checks += [_training_step, _smooth_step]
    for name in names:
        for check in checks:
            torch.manual_seed(0)
            torch._dynamo.reset()
            began = time.monotonic()
            model = timm.create_model(name, drop_path_rate=0.0) if _drops(name) else timm.create_model(name)
            images = torch.randn(12, 3, options.size, options.size)
            try:
                found = check(_lively(model, images[4:]), images[:4])
            except Exception as error:
                found = Found(0, 0, 0, 0, f"{type(error).__name__}: {error}")
            compared += 1
            tensors += found.tensors
            failed += bool(found.complaint)
            what = check.__name__.strip("_").replace("_", " ")
            said = f"{found.tensors:4} tensors off by {found.ours:.0e}, PyTorch's by {found.pytorchs:.0e}, "
            said += f"{found.times:4.2f} times at most"
            print(f"{name:24} {what:14} {said} {time.monotonic() - began:5.1f} s", flush=True)
            if found.complaint:
                print(f"  FAILED {found.complaint}", flush=True)
    print(f"{len(names)} networks, {compared} comparisons of {tensors:,} tensors, {failed} failed")
    if options.write:
        counted = {"networks": len(names), "comparisons": compared, "tensors": tensors}
        record.keep("commands", {"make networks": {"counted": counted, "failed": failed}})
    return 1 if failed else 0


def _drops(name: str) -> bool:
    return name.startswith("convnext")


def _lively(model: nn.Module, images: torch.Tensor) -> nn.Module:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
        norm.momentum = 1.0
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        model.train()(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.running_mean is None or norm.running_var is None:
                continue
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.25)
    return model


@dataclass(frozen=True)
class Found:
    """What was compared: the furthest off, as a share of a tensor's largest number, and of PyTorch's own."""

    tensors: int
    ours: float
    pytorchs: float
    times: float
    complaint: str = ""


Tensors = dict[str, torch.Tensor]
Run = Callable[[nn.Module, torch.Tensor], Tensors]


def _inference(model: nn.Module, x: torch.Tensor) -> Found:
    model.eval()
    fast = ninefold.for_inference(model, x)
    assert {layer.how for layer in fast.layers} & {"fused", "kernel"}, "no layer runs in a kernel"

    def run(model: nn.Module, x: torch.Tensor) -> Tensors:
        with torch.no_grad():
            return {"output": model(x)}

    return _held(run(fast, x), run, model, x)


def _training_step(model: nn.Module, x: torch.Tensor) -> Found:
    model.train()
    twin = copy.deepcopy(model)
    ours = _step(ninefold.for_training(model), x)
    assert " fused    " in ninefold.training.summary(model), "no convolution trains in a chain"
    return _held({name.replace("_orig_mod.", ""): value for name, value in ours.items()}, _step, twin, x)


def _smooth_step(model: nn.Module, x: torch.Tensor) -> Found:
    for module in list(model.modules()):
        for name, child in module.named_children():
            smooth = _SMOOTH.get(type(child).__name__.lower())
            if smooth:
                setattr(module, name, smooth())
    return _training_step(model, x)


def _held(ours: Tensors, run: Run, model: nn.Module, x: torch.Tensor) -> Found:
    """Ours beside float64's, and beside PyTorch's draws of last bits: four, more where those do not do."""
    truth = run(copy.deepcopy(model).double(), x.double())
    draws = _draws(run, model, x)
    plain = list(islice(draws, 4))
    found = _compare(ours, plain, truth)
    while found.complaint and (more := list(islice(draws, 4))):
        plain += more
        found = _compare(ours, plain, truth)
    return found


def _draws(run: Run, model: nn.Module, x: torch.Tensor) -> Iterator[Tensors]:
    """What PyTorch makes of the same in float32: both layouts, the image as it is and its last bits moved."""
    for number in range(_DRAWS // 2):
        moved = x * (1 + 2.0**-24 * torch.randint(-1, 2, x.shape) * 1.5) if number else x
        for layout in (torch.contiguous_format, torch.channels_last):
            twin = copy.deepcopy(model).to(memory_format=layout)  # type: ignore[call-overload]
            yield run(twin, moved.contiguous(memory_format=layout))


def _step(model: nn.Module, x: torch.Tensor) -> Tensors:
    out = model(x)
    loss = (out * torch.linspace(-1, 1, out.shape[1], dtype=out.dtype)).sum(1).square().mean()
    loss.backward()
    found = {"loss": loss.detach()}
    found |= {f"gradient of {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    found |= {n: b.clone() for n, b in model.named_buffers() if b.is_floating_point()}
    return found


def _compare(ours: Tensors, plain: Sequence[Tensors], truth: Tensors) -> Found:
    if ours.keys() != truth.keys():
        return Found(0, 0, 0, 0, f"other names: {sorted(ours.keys() ^ truth.keys())[:3]}")
    largest = max(right.abs().max().item() for name, right in truth.items())
    furthest = pytorchs = worst = 0.0
    complaint = ""
    for name, right in truth.items():
        scale = right.abs().max().item()
        if scale < _CANCELS * largest:
            scale = largest
        theirs = max((each[name].double() - right).abs().max().item() for each in plain) / scale
        off = (ours[name].double() - right).abs().max().item() / scale
        furthest, pytorchs = max(furthest, off), max(pytorchs, theirs)
        times = off / max(theirs, _LEAST)
        if not times <= max(worst, _TIMES):  # NaN too
            complaint = f"{name} is off by {off:.1e} of its largest number, PyTorch's by {theirs:.1e}"
        worst = max(worst, times)
    return Found(len(truth), furthest, pytorchs, worst, complaint)


if __name__ == "__main__":
    sys.exit(main())
