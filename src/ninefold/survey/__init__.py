"""A network examined: counted, timed layer by layer, and compared with what it would be the other way.

census and operators (what it calls) → clock (how long each takes) → swap (what if) → `reporting.facts`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ninefold.reporting.facts import Report

from .network import Listener, examine

__all__ = ["Listener", "examine", "report"]


def report(
    model: nn.Module,
    example_inputs: Any,
    *,
    name: str | None = None,
    threads: int | None = None,
    seconds: float = 6.0,
) -> Report:
    """Say what `model` costs, what it would cost the other way, and where its time goes.

    `example_inputs` is its input, or a tuple of its positional inputs. `name` is the title (None: the class's
    name), `threads` how many PyTorch and Ninefold may use (None: PyTorch's number), `seconds` how long the
    timing takes, beside what a slow network needs for a few runs. The model is left as it was. A notebook
    shows the page.

        print(ninefold.report(model, x))
        ninefold.report(model, x).save("report.html")

    Raises TypeError for what is no module, and ValueError for one without a convolution, or that
    `torch.export` cannot capture.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
    inputs = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    name = type(model).__name__ if name is None else name
    return examine(
        model,
        inputs,
        name=name,
        threads=threads,
        seconds=seconds,
        convert="ninefold.convert(model, example_inputs, calibration=images, terms=1)",
        command=f"ninefold.report({name}, example_inputs)",
    )
