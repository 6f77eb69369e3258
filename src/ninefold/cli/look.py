"""What `ninefold report` does: find network and input, examine, print the brief, write the page."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ninefold import photos
from ninefold.reporting import tables
from ninefold.reporting.brief import brief
from ninefold.reporting.facts import Report, Sight, check_output

from . import progress

if TYPE_CHECKING:
    from ninefold.models import Network


def look(
    name: str,
    *,
    weights: Path | None,
    image: str | None,
    threads: int | None,
    seconds: float,
    output: Path,
    as_json: bool,
) -> None:
    """Examine the network called `name`, print what was found and write the page to `output`.

    Raises what `models.load`, `photos.read` and `survey.examine` raise, ValueError for a bad output.
    """
    check_output(output)
    with progress.steps() as steps:
        # Before PyTorch is loaded: a wrong name should not cost seconds.
        picture = None if image is None else photos.read(image)
        steps.passing("loading PyTorch and the network")
        try:
            import torch  # noqa: F401
        except ModuleNotFoundError:
            raise ImportError("running a network needs PyTorch: pip install 'ninefold[torch]'") from None
        from ninefold import models, survey

        network = models.load(name, weights)
        inputs = network.examples
        if picture is not None:
            inputs = (photos.prepare(picture, network.preparation),)
        _check_runs(network, inputs)

        def see(plain: Any, fast: Any) -> Sight | None:
            return None if picture is None else _sight(network, Path(str(image)).name, picture, plain, fast)

        found = survey.examine(
            network.model,
            inputs,
            name=network.name,
            threads=threads,
            seconds=seconds,
            convert=_convert_line(name, weights),
            command=shlex.join(["ninefold", *sys.argv[1:]]),
            trained=network.trained,
            see=see,
            listener=steps,
        )
    found.save(output)
    if as_json:
        values = {**tables.plain(found), "report": str(output.resolve())}
        click.echo(json.dumps(values, indent=2, ensure_ascii=False))
    else:
        _print(found, output)


def _check_runs(network: Network, inputs: tuple[Any, ...]) -> None:
    import torch

    try:
        with torch.inference_mode():
            network.model(*inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, torch.Tensor))
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(
            f"`model` must run on its example input, {shapes}, got {network.name}: {words}"
        ) from error


def _convert_line(name: str, weights: Path | None) -> str:
    """What would make its standard convolutions separable; a file of a graph has no command for that."""
    if Path(name).suffix.lower() in (".onnx", ".pt2"):
        return "ninefold.convert(model, example_inputs, calibration=images, terms=1)"
    more = [] if weights is None else ["--weights", str(weights)]
    return shlex.join(["ninefold", "convert", name, *more]) + " --data FOLDER --terms 1 -o FOLDER"


def _sight(network: Network, photo: str, picture: Any, plain: Any, fast: Any) -> Sight | None:
    """What a classifier sees; None for a network that answers with something else than classes."""
    import torch

    from .examine import guesses

    if not isinstance(plain, torch.Tensor) or plain.dim() != 2:
        return None
    return Sight(
        photo,
        photos.as_data_uri(picture),
        guesses(plain[0], network.classes),
        guesses(fast[0], network.classes),
    )


def _print(found: Report, output: Path) -> None:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        # Whoever reads a file or a pipe has no width.
        console.width = 120
    console.print(brief(found))
    console.print(f"\nreport: {output.resolve()}", soft_wrap=True)
