"""`make networks`: thirty timm networks against PyTorch, in inference and in one training step.

Weights are random and batch-norm statistics are not those a network starts with. Compared are the output, and
of a training step the loss, every gradient and every running statistic, each with float64: it may be off
by no more than a few times what PyTorch's own float32 is off by, and a small part of the tensor's largest
number.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from collections.abc import Callable

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
_TIMES = 8.0  # PyTorch's own error
# Of the largest number: in a step, an activation at a kink may fall on either side of it.
_OUTPUT, _STEP = 1e-5, 2e-3


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
    names = options.network or NETWORKS
    compared = failed = 0
    checks: list[Callable[[nn.Module, torch.Tensor], str]] = [_inference]
    if not options.inference_only:
        checks.append(_training_step)
    for name in names:
        for check in checks:
            torch.manual_seed(0)
            torch._dynamo.reset()
            began = time.monotonic()
            model = _lively(
                timm.create_model(name, drop_path_rate=0.0) if _drops(name) else timm.create_model(name)
            )
            try:
                complaint = check(model, torch.randn(4, 3, options.size, options.size))
            except Exception as error:
                complaint = f"{type(error).__name__}: {error}"
            compared += 1
            failed += bool(complaint)
            what = check.__name__.strip("_").replace("_", " ")
            print(
                f"{name:24} {what:14} {complaint or 'agrees':40} {time.monotonic() - began:5.1f} s",
                flush=True,
            )
    print(f"{len(names)} networks, {compared} comparisons, {failed} failed")
    if options.write:
        counted = {"networks": len(names), "comparisons": compared}
        record.keep("commands", {"make networks": {"counted": counted, "failed": failed}})
    return 1 if failed else 0


def _drops(name: str) -> bool:
    return name.startswith("convnext")


def _lively(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def _inference(model: nn.Module, x: torch.Tensor) -> str:
    model.eval()
    with torch.no_grad():
        fast = ninefold.for_inference(model, x)
        truth, plain, ours = copy.deepcopy(model).double()(x.double()), model(x), fast(x)
    return _compare({"output": ours}, {"output": plain}, {"output": truth}, _OUTPUT)


def _training_step(model: nn.Module, x: torch.Tensor) -> str:
    model.train()
    exact, plain = copy.deepcopy(model).double(), copy.deepcopy(model)
    fast = ninefold.for_training(model) or model
    return _compare(_step(fast, x), _step(plain, x), _step(exact, x.double()), _STEP)


def _step(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    out = model(x)
    loss = (out * torch.linspace(-1, 1, out.shape[1], dtype=out.dtype)).sum(1).square().mean()
    loss.backward()
    found = {"loss": loss.detach()}
    found |= {f"gradient of {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    found |= {n: b.clone() for n, b in model.named_buffers() if b.is_floating_point()}
    return found


def _compare(
    ours: dict[str, torch.Tensor],
    plain: dict[str, torch.Tensor],
    truth: dict[str, torch.Tensor],
    least: float,
) -> str:
    strip = {name.replace("_orig_mod.", ""): value for name, value in ours.items()}
    if strip.keys() != truth.keys():
        return f"other names: {sorted(strip.keys() ^ truth.keys())[:3]}"
    worst, at = 0.0, ""
    for name, right in truth.items():
        scale = right.abs().max().item() or 1.0
        allowed = _TIMES * (plain[name].double() - right).abs().max().item() + least * scale
        off = (strip[name].double() - right).abs().max().item()
        if not off <= allowed and not off / allowed <= worst:
            worst, at = off / allowed, name
    return f"{at} is off by {worst:.1f} times what it may be" if at else ""


if __name__ == "__main__":
    sys.exit(main())
