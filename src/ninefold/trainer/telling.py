"""What a run says while it goes, and when it is stopped."""

from __future__ import annotations

from typing import Any


class Tell:
    """Told how a run goes; each method may be overridden."""

    def epoch(self, number: int, epochs: int) -> None:
        """An epoch begins."""

    def step(self, share: float, loss: float) -> None:
        """A step is done: the share of the epoch, the step's loss."""

    def skipped(self, reason: str) -> None:
        """A picture was left out."""

    def result(self, values: dict[str, Any]) -> None:
        """An epoch is done: what was written into the metrics."""


class Interrupted(RuntimeError):  # noqa: N818
    """The run was stopped by hand; its last checkpoint stands."""
