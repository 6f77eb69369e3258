"""`make soak`: minutes of mixed calls, by several threads, at sizes that change; memory must stay flat."""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import threading
import time

import torch
from torch import nn

import ninefold
import record

_GROWTH = 48  # MB that memory may differ by at the end of its warm-up and at its end
_PAGE = os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    """Soak; 0 if memory stayed flat and every result was right."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="what was counted into results.json")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    models = [_model(channels) for channels in (8, 17, 32)]
    fast = [ninefold.for_inference(model, _image(model, 1, 24)) for model in models]
    stop, calls, wrong = threading.Event(), [0] * options.threads, [0] * options.threads

    def work(k: int) -> None:
        choose = random.Random(f"{options.seed} {k}")
        while not stop.is_set():
            index = choose.randrange(len(models))
            # Two image sizes: each is captured once; batches are free.
            x = _image(models[index], choose.randrange(1, 5), choose.choice((24, 32)))
            torch.set_num_threads(choose.randrange(1, 4))
            with torch.no_grad():
                if choose.random() < 0.5:
                    wrong[k] += not torch.allclose(fast[index](x), models[index](x), rtol=1e-4, atol=1e-4)
                else:
                    channels, side = choose.randrange(1, 70), choose.randrange(3, 40)
                    image = torch.randn(1, channels, side, side)
                    weights = torch.randn(channels, 1, 3, 3), torch.randn(20, channels, 1, 1)
                    wrong[k] += bool(ninefold.ops.separable_conv2d(image, *weights, padding=1).isnan().any())
            calls[k] += 1

    workers = [threading.Thread(target=work, args=(k,)) for k in range(options.threads)]
    began = time.monotonic()
    for worker in workers:
        worker.start()
    measured = []
    while time.monotonic() - began < options.seconds:
        time.sleep(options.seconds / 20)
        measured.append(_resident())
        print(f"{time.monotonic() - began:6.0f} s {sum(calls):9,} calls {measured[-1]:7.1f} MB", flush=True)
    stop.set()
    for worker in workers:
        worker.join()
    gc.collect()
    # The first quarter warms up: arenas, scratch and captured graphs are made then.
    warm, end = max(measured[: len(measured) // 4 + 1]), min(measured[-3:])
    grown = end - warm
    print(f"{sum(calls):,} calls, {sum(wrong)} wrong; memory changed by {grown:+.1f} MB after warming up")
    failed = sum(wrong) + (grown > _GROWTH)
    if options.write:
        counted = {"calls": sum(calls), "threads": options.threads, "seconds": round(options.seconds)}
        counted["MB of growth after warming up"] = round(grown, 1)
        record.keep("commands", {"make soak": {"counted": counted, "failed": failed}})
    return 1 if failed else 0


def _model(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, 2, 1)]
    for stride in (1, 2, 1):
        depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        layers += [
            depthwise,
            nn.BatchNorm2d(channels),
            nn.ReLU6(),
            nn.Conv2d(channels, channels, 1),
            nn.SiLU(),
        ]
    return nn.Sequential(*layers).eval()


def _image(model: nn.Module, batch: int, side: int) -> torch.Tensor:
    return torch.randn(batch, 3, side, side)


def _resident() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * _PAGE / 1e6


if __name__ == "__main__":
    sys.exit(main())
