"""Epochs and steps: forward, backward, optimiser; validation after each epoch, and a checkpoint."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from ninefold import training
from ninefold.trainer import keeping, processes
from ninefold.trainer.data import Data, Examples, collate
from ninefold.trainer.objective import Labels, Objective
from ninefold.trainer.settings import Settings, learning_rate
from ninefold.trainer.telling import Interrupted, Tell


@dataclass
class _State:
    """Where a run is: steps done, and of the epoch at hand the sum of losses and the images seen."""

    step: int = 0
    loss: float = 0.0
    images: int = 0


def train(
    model: nn.Module,
    data: Data,
    output: Path,
    settings: Settings,
    *,
    objective: Objective | None = None,
    resume: bool = False,
    workers: int = 0,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Train a model in place; return the last epoch's metrics.

    `output` gets checkpoint.pt, metrics.jsonl and at the end model.pt, the state_dict. `objective` is what
    the steps make smaller, without one the cross-entropy with the labels. Under torchrun each process takes
    its share of each batch of `settings.batch` times their number.

    Raises ValueError for settings that are not the checkpoint's, a model with too few outputs, few images,
    a loss that is no number and (`unreadable`: "stop") a picture that cannot be read; FileExistsError for an
    output that holds a run, unless `resume`; Interrupted after Ctrl-C.
    """
    with processes.joined() as group:
        aim = objective or Labels(len(data.classes), settings.label_smoothing)
        told = tell if tell and group.first else Tell()
        run = _Run(model, data, output, settings, aim, workers, told, group)
        try:
            return run.go(resume)
        except KeyboardInterrupt:
            words = "resume it" if (output / keeping.CHECKPOINT).exists() else "it had no checkpoint yet"
            raise Interrupted(f"interrupted after step {run.state.step}: {words}") from None


class _Run:
    def __init__(
        self,
        model: nn.Module,
        data: Data,
        output: Path,
        settings: Settings,
        objective: Objective,
        workers: int,
        tell: Tell,
        group: processes.Group,
    ) -> None:
        self.model, self.data, self.output, self.settings = model, data, output, settings
        self.objective, self.workers, self.tell, self.group = objective, workers, tell, group
        self.state = _State()
        self.steps = len(data.training) // (settings.batch * group.size)
        if not self.steps:
            needed = settings.batch * group.size
            raise ValueError(f"`data` must have images for a batch of {needed}, got {len(data.training)}")
        # No weight decay on biases and batch-norm: it only moves them towards nothing.
        decays = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
        others = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
        groups: list[dict[str, Any]] = [
            {"params": decays, "weight_decay": settings.weight_decay},
            {"params": others},
        ]
        self.optimiser: torch.optim.Optimizer
        if settings.optimiser == "adam":
            self.optimiser = torch.optim.Adam(groups, lr=0.0, betas=(settings.momentum, 0.999))
        else:
            self.optimiser = torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum)

    def go(self, resume: bool) -> dict[str, Any]:
        self._begin(resume)
        if self.settings.synchronised and self.group.size > 1:
            training.synchronise(self.model)
        elif self.settings.fused:
            training.for_training(self.model, self.settings.activations)
        call = self.group.wrap(self.model)
        values: dict[str, Any] = self.last
        try:
            for epoch in range(self.state.step // self.steps, self.settings.epochs):
                self.tell.epoch(epoch + 1, self.settings.epochs)
                values = self._epoch(call, epoch)
                self.tell.result(values)
        finally:
            training.restore(self.model)
        if self.group.first:
            keeping.save(self.output / keeping.WEIGHTS, self.model.state_dict())
        return values

    def _begin(self, resume: bool) -> None:
        path = self.output / keeping.CHECKPOINT
        self.last: dict[str, Any] = {}
        keeping.check(self.output, resume)
        if resume:
            kept = keeping.load(path)
            mine = self._signature()
            for name, value in kept["settings"].items():
                if mine.get(name) != value:
                    raise ValueError(f"`{name}` must be {value}, as in the checkpoint, got {mine.get(name)}")
            rule = "`output` must hold a checkpoint of this very network"
            try:
                self.model.load_state_dict(kept["model"])
            except (RuntimeError, TypeError, AttributeError):
                raise ValueError(f"{rule}, got {str(path)!r}, whose weights are others") from None
            try:
                self._load_optimiser(kept["optimiser"])
            except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError):
                raise ValueError(f"{rule}, got {str(path)!r}, whose optimiser is another") from None
            self.state = _State(kept["step"], kept["loss"], kept["images"])
            self.last = kept["last"]
        if self.group.first:
            self.output.mkdir(parents=True, exist_ok=True)
            self.metrics = keeping.Metrics(self.output / keeping.METRICS, step=self.state.step)

    def _load_optimiser(self, kept: dict[str, Any]) -> None:
        """Take the optimiser's state: of this one's settings, its images of the weights of their shapes."""
        own = self.optimiser.state_dict()["param_groups"]
        for mine, theirs in zip(own, kept["param_groups"], strict=True):
            if any(theirs[name] != value for name, value in mine.items() if name != "lr"):
                raise ValueError("settings of another optimiser")
        self.optimiser.load_state_dict(kept)
        for weight, state in self.optimiser.state.items():
            for value in state.values():
                if isinstance(value, Tensor) and value.dim() and value.shape != weight.shape:
                    raise ValueError("a state of another shape")

    def _signature(self) -> dict[str, Any]:
        """What a resumed run must share with the one it goes on with."""
        own = dataclasses.asdict(self.settings)
        own.pop("save_every")
        seen = {"processes": self.group.size, "images": len(self.data.training)}
        return own | seen | self.objective.signature()

    def _epoch(self, call: nn.Module, epoch: int) -> dict[str, Any]:
        self.model.train()
        settings, state, began = self.settings, self.state, time.perf_counter()
        seen = 0
        for images, labels, bad in self._loader(epoch, state.step - epoch * self.steps):
            self._refuse(bad)
            if not len(labels):
                state.step += 1
                continue
            rate = learning_rate(settings, state.step, self.steps)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            torch.manual_seed(settings.seed * 1_000_003 + state.step)
            self.optimiser.zero_grad()
            loss = self.objective.loss(images, labels, call(images))
            loss.backward()
            value = loss.item()
            if not math.isfinite(value):
                raise ValueError(f"`learning_rate` must be smaller: the loss at step {state.step} is {value}")
            self.optimiser.step()
            state.step += 1
            state.loss += value * len(labels)
            state.images += len(labels)
            seen += len(labels)
            self.tell.step((state.step - epoch * self.steps) / self.steps, value)
            if state.step % settings.save_every == 0 and state.step % self.steps:
                self._save()
        return self._finish(epoch, seen, time.perf_counter() - began)

    def _finish(self, epoch: int, seen: int, seconds: float) -> dict[str, Any]:
        state = self.state
        loss, images, count = self.group.total(state.loss, state.images, seen)
        values = {
            "epoch": epoch + 1,
            "step": state.step,
            "loss": loss / max(images, 1),
            "learning_rate": learning_rate(self.settings, state.step - 1, self.steps),
            **self._validate(),
        }
        state.loss, state.images, self.last = 0.0, 0, values
        if self.group.first:
            timed = {"seconds": round(seconds, 3), "images_per_second": round(count / seconds, 1)}
            self.metrics.tell(**values, **timed)
            values = values | timed
        self._save()
        return values

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        examples = self.data.validation
        if examples is None:
            return {}
        self.model.eval()
        mine = list(range(self.group.rank, len(examples), self.group.size))
        batches = [mine[at : at + self.settings.batch] for at in range(0, len(mine), self.settings.batch)]
        loss, right, count = 0.0, 0, 0
        for images, labels, bad in self._load(examples, batches):
            self._refuse(bad)
            if len(labels):
                logits = self.model(images)
                loss += functional.cross_entropy(logits, labels, reduction="sum").item()
                right += int((logits.argmax(1) == labels).sum())
                count += len(labels)
        loss, right, count = self.group.total(loss, right, count)  # type: ignore[assignment]
        return {"validation_loss": loss / max(count, 1), "accuracy": right / max(count, 1)}

    def _loader(self, epoch: int, first: int) -> Any:
        examples = self.data.training
        examples.seed = f"{self.settings.seed} {epoch}"
        order = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        places = torch.randperm(len(examples), generator=order).tolist()
        size, rank, count = self.settings.batch, self.group.rank, self.group.size
        together = [places[at * size * count : (at + 1) * size * count] for at in range(first, self.steps)]
        return self._load(examples, [batch[rank::count] for batch in together])

    def _load(self, examples: Examples, batches: list[list[int]]) -> Any:
        return DataLoader(examples, batch_sampler=batches, num_workers=self.workers, collate_fn=collate)

    def _refuse(self, bad: list[str]) -> None:
        for reason in bad:
            if self.settings.unreadable == "stop":
                raise ValueError(reason)
            self.tell.skipped(reason)

    def _save(self) -> None:
        if not self.group.first:
            return
        state = self.state
        keeping.save(
            self.output / keeping.CHECKPOINT,
            {
                "model": self.model.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "step": state.step,
                "loss": state.loss,
                "images": state.images,
                "last": self.last,
                "settings": self._signature(),
            },
        )
