"""What a report says of a network, as plain data: rows, blocks, shares, swaps; only sums and ratios here."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from html import escape
from pathlib import Path

from .data import Contender, Guess, Machine

CONVOLUTIONS = ("standard", "pointwise", "depthwise", "grouped", "transposed")
KINDS = (*CONVOLUTIONS, "linear", "matrix product", "attention")


@dataclass(frozen=True)
class Limit:
    """The least time that arithmetic and memory allow, and which decides ("arithmetic", "L2", ...)."""

    seconds: float
    bound: str


def limit(machine: Machine, multiplications: int, size: int) -> Limit:
    """The roofline: all multiplications at peak, or all `size` bytes once, whichever takes longer.

    The bytes come from the smallest memory that could hold them, which is kind to a layer whose data is
    further away: a limit is what nothing beats that makes all multiplications. (Williams, Waterman,
    Patterson: Roofline, 2009.)
    """
    arithmetic = 2 * multiplications / machine.gflops / 1e9
    # A cache is measured with half of it; what comes last holds everything.
    level = next((each for each in machine.bandwidths[:-1] if size <= 2 * each.size), machine.bandwidths[-1])
    memory = size / level.gigabytes_per_second / 1e9
    return Limit(arithmetic, "arithmetic") if arithmetic >= memory else Limit(memory, level.level)


@dataclass(frozen=True)
class Row:
    """One layer: a call of an operator that multiplies. Shapes hold the batch.

    `seconds` is its time in PyTorch, in the network's own run. `block` is its place in `Report.blocks`.
    """

    position: int
    name: str
    kind: str
    operator: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    multiplications: int
    parameters: int
    bytes: int
    limit: Limit
    seconds: float
    block: int | None

    @property
    def intensity(self) -> float:
        """Operations per byte; a multiplication and its addition are two."""
        return 2 * self.multiplications / max(self.bytes, 1)

    @property
    def what(self) -> str:
        """The layer in a few words: 3×3, stride 2."""
        parts = ["×".join(map(str, self.kernel_size))] if self.kernel_size else []
        parts += [
            f"{name} {'×'.join(map(str, sorted(set(value), reverse=True)))}"
            for name, value in (("stride", self.stride), ("dilation", self.dilation))
            if any(each != 1 for each in value)
        ]
        grouped = self.kind == "grouped" or (self.kind == "transposed" and self.groups > 1)
        return ", ".join([*parts, *[f"{self.groups} groups"] * grouped])


@dataclass(frozen=True)
class Block:
    """What Ninefold runs as one: its layers by name, what became of them ("fused", "packed", "PyTorch"), why.

    `bytes` leaves out what passes between its layers. `seconds` is its time in the network's own run.
    """

    names: tuple[str, ...]
    how: str
    why: str
    multiplications: int
    bytes: int
    limit: Limit | None
    seconds: float | None

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return 2 * self.multiplications / max(self.bytes, 1)


@dataclass(frozen=True)
class Share:
    """Where time goes: all calls of one kind together."""

    kind: str
    calls: int
    multiplications: int
    seconds: float


@dataclass(frozen=True)
class Alone:
    """Seconds of a layer by itself, its input warm: the best of rounds in which both forms take turns."""

    standard: float
    separable: float


@dataclass(frozen=True)
class Swap:
    """One layer as a standard and as a separable convolution: exact counts, predicted and measured times.

    `built` says which of the two the network has. `predicted` is the time of the other one in Ninefold, if it
    comes as near its limit as the one that is built. Times are those of the layer alone.
    """

    name: str
    what: str
    built: str
    standard_multiplications: int
    separable_multiplications: int
    standard_parameters: int
    separable_parameters: int
    predicted: float
    ninefold: Alone
    pytorch: Alone

    @property
    def saved(self) -> int:
        """Multiplications that the separable form needs less."""
        return self.standard_multiplications - self.separable_multiplications

    @property
    def ratio(self) -> Fraction:
        """Multiplications, separable / standard."""
        return Fraction(self.separable_multiplications, self.standard_multiplications)

    @property
    def predicted_factor(self) -> float:
        """How many times faster the separable form should be in Ninefold."""
        if self.built == "standard":
            return self.ninefold.standard / self.predicted
        return self.predicted / self.ninefold.separable

    @property
    def measured_factor(self) -> float:
        """How many times faster the separable form is in Ninefold."""
        return self.ninefold.standard / self.ninefold.separable

    @property
    def pytorch_factor(self) -> float:
        """How many times faster the separable form is in PyTorch, both channels-last."""
        return self.pytorch.standard / self.pytorch.separable


@dataclass(frozen=True)
class Sight:
    """What a classifier sees in a photograph, plain and through Ninefold."""

    photo: str
    photo_uri: str
    plain: tuple[Guess, ...]
    ninefold: tuple[Guess, ...]


@dataclass(frozen=True)
class Report:
    """A network examined: what it costs, what it would cost the other way, how fast it runs here, and why.

    `contenders` are the whole network's times, the last one Ninefold's; `plain` is the fastest of the others,
    whose operators were timed one by one. `shares` and `steps` say where the time goes in each. `parameters`
    are all of the network's, biases and norms included.
    """

    network: str
    trained: bool
    inputs: tuple[tuple[int, ...], ...]
    parameters: int
    rows: tuple[Row, ...]
    blocks: tuple[Block, ...]
    shares: tuple[Share, ...]
    steps: tuple[Share, ...]
    contenders: tuple[Contender, ...]
    plain: str
    speedup: float
    rounds: int
    difference: float
    saved: tuple[Swap, ...]
    could_save: tuple[Swap, ...]
    convert: str | None
    notes: tuple[str, ...]
    machine: Machine
    command: str
    sight: Sight | None = None

    @cached_property
    def multiplications(self) -> int:
        """Of the whole network as it is built, exactly, for the batch of the example."""
        return sum(row.multiplications for row in self.rows)

    @cached_property
    def weights(self) -> int:
        """Parameters of the layers, each once however often it is used; biases and norms not counted."""
        return sum({row.name: row.parameters for row in self.rows}.values())

    @cached_property
    def bytes(self) -> int:
        """What the layers read and write, each operand and result once."""
        return sum(row.bytes for row in self.rows)

    @property
    def limit_seconds(self) -> float:
        """All multiplications at peak: who makes them all runs no faster."""
        return 2 * self.multiplications / self.machine.gflops / 1e9

    @property
    def best_plain(self) -> Contender:
        """The fastest plain way to run it."""
        return next(each for each in self.contenders if each.name == self.plain)

    @property
    def ninefold(self) -> Contender:
        """The network through `for_inference`."""
        return self.contenders[-1]

    def share_of_peak(self, each: Row | Block) -> float | None:
        """The share of peak arithmetic that a row reaches in PyTorch, or a block in Ninefold."""
        if not each.seconds:
            return None
        return 2 * each.multiplications / each.seconds / 1e9 / self.machine.gflops

    def leads(self, row: Row) -> bool:
        """Whether a row is the first of its block: where the block's time stands."""
        return all(row.block != other.block for other in self.rows[: row.position])

    @property
    def unfused(self) -> tuple[Block, ...]:
        """What Ninefold left to PyTorch, with the reasons."""
        return tuple(block for block in self.blocks if block.how == "PyTorch")

    @property
    def reasons(self) -> dict[str, tuple[Block, ...]]:
        """Why layers were left to PyTorch, and which; the reason with the most multiplications first."""
        found: dict[str, tuple[Block, ...]] = {}
        for block in self.unfused:
            found[block.why] = (*found.get(block.why, ()), block)
        return dict(sorted(found.items(), key=lambda each: -sum(block.multiplications for block in each[1])))

    @property
    def together(self) -> Alone | None:
        """Ninefold's time of all `swaps`, each alone, in both forms; None for no swaps."""
        if not self.swaps:
            return None
        return Alone(
            sum(swap.ninefold.standard for swap in self.swaps),
            sum(swap.ninefold.separable for swap in self.swaps),
        )

    @property
    def page(self) -> str:
        """The page: one HTML document that needs nothing else."""
        from .document import render

        return render(self)

    def save(self, output: str | Path) -> Path:
        """Write the page to a path that ends in .html, or the tables to .csv or .json; return the path.

        Raises ValueError for another ending, and for a path in no folder.
        """
        from . import tables

        path = Path(output)
        writers = {".html": lambda it: it.page, ".htm": lambda it: it.page}
        writers |= {".csv": tables.as_csv, ".json": tables.as_json}
        check_output(path)
        path.write_text(writers[path.suffix.lower()](self), encoding="utf-8")
        return path

    def __str__(self) -> str:
        from .brief import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        # In a frame, so that the notebook's styles and scripts and the page's leave each other alone.
        return (
            f'<iframe srcdoc="{escape(self.page)}" sandbox="allow-scripts allow-downloads" '
            'title="ninefold.report" style="width: 100%; height: 820px; border: 0;"></iframe>'
        )

    @property
    def swaps(self) -> tuple[Swap, ...]:
        """What the headline compares: the pairs it has if any, else what it could have."""
        return self.saved or self.could_save

    @property
    def is_separable(self) -> bool:
        """Whether the network has depthwise→pointwise pairs."""
        return bool(self.saved)

    @cached_property
    def other_way(self) -> tuple[int, int]:
        """Multiplications and weights of the network with all `swaps` made."""
        sign = 1 if self.is_separable else -1
        difference = sum(swap.saved for swap in self.swaps)
        # A weight that is used twice is one.
        weights = {swap.name: swap.standard_parameters - swap.separable_parameters for swap in self.swaps}
        return self.multiplications + sign * difference, self.weights + sign * sum(weights.values())


def check_output(path: Path) -> None:
    """Raise ValueError for a path that `Report.save` could not write: another ending, or no folder."""
    if path.suffix.lower() not in (".html", ".htm", ".csv", ".json"):
        raise ValueError(f"`output` must end in .html, .csv or .json, got {str(path)!r}")
    if not path.parent.is_dir():
        raise ValueError(f"`output` must be in a folder that is there, got {str(path)!r}")


def size(shape: tuple[int, ...]) -> str:
    """A shape in words: 1×64×56×56."""
    return "×".join(map(str, shape))
