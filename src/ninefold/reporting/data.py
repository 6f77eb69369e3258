"""The plain data that pages and tables are made from: no tensors, no networks, only ratios to compute."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

FATES = ("fused", "packed", "PyTorch")


@dataclass(frozen=True)
class Guess:
    """One of the classes a network thinks most likely; `probability` is from 0 to 1."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Contender:
    """One way to run the network: what it saw, and the median of its times in seconds."""

    name: str
    guesses: tuple[Guess, ...]
    seconds: float
    spread: float


@dataclass(frozen=True)
class Count:
    """Multiplications and parameters as the network is built, and with standard convolutions instead."""

    multiplications: int
    parameters: int
    standard_multiplications: int
    standard_parameters: int
    pairs: int
    separable_multiplications: int

    @property
    def multiplications_ratio(self) -> Fraction:
        """As built / with standard convolutions."""
        return Fraction(self.multiplications, self.standard_multiplications)

    @property
    def parameters_ratio(self) -> Fraction:
        """As built / with standard convolutions."""
        return Fraction(self.parameters, self.standard_parameters)


@dataclass(frozen=True)
class Layer:
    """One block of the network: what it is, what it costs both ways, and what became of it.

    `fate` is "fused" (in one kernel with its neighbours), "packed" (a kernel of its own) or "PyTorch";
    `reason` says what was folded in, or why it was left to PyTorch.
    """

    name: str
    what: str
    multiplications: int
    standard_multiplications: int
    fate: str
    reason: str


@dataclass(frozen=True)
class Bandwidth:
    """Reading and writing `size` bytes that live in `level`."""

    level: str
    size: int
    gigabytes_per_second: float


@dataclass(frozen=True)
class Machine:
    """Where it was measured, and the two limits there."""

    processor: str
    threads: int
    instruction_set: str | None
    gflops: float
    bandwidths: tuple[Bandwidth, ...]
    measured_with: str
    versions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Examination:
    """One network on one photograph, plain and through Ninefold."""

    network: str
    trained: bool
    input_size: tuple[int, int]
    photo: str
    photo_uri: str
    plain: tuple[Contender, ...]
    ninefold: Contender
    speedup: float  # over the fastest plain one, the median of the ratios round by round
    rounds: int
    logit_difference: float  # the largest, as a share of the logits' range
    fused_share: float  # of the separable multiplications
    count: Count
    layers: tuple[Layer, ...]
    machine: Machine
    command: str

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """The plain ones, then Ninefold."""
        return (*self.plain, self.ninefold)

    @property
    def best_plain(self) -> Contender:
        """The fastest of the plain ones."""
        return min(self.plain, key=lambda contender: contender.seconds)

    @property
    def limit_seconds(self) -> float:
        """How long the multiplications take at peak arithmetic: who makes them all runs no faster."""
        return 2 * self.count.multiplications / self.machine.gflops / 1e9

    @property
    def same_guesses(self) -> bool:
        """Whether all saw the same classes in the same order."""
        seen = {tuple(guess.index for guess in each.guesses) for each in self.contenders}
        return len(seen) == 1
