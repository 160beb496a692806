"""What a benchmark is given and what it returns. Knows no benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


class BenchmarkError(Exception):
    """What was measured did not work, so there is no figure."""


@dataclass(frozen=True)
class Options:
    """quick: tiny sizes, only to see that everything works. pairs: of runs in a comparison.

    model: a folder of the chat model to use; the demo model is fetched when it is None.
    """

    quick: bool = False
    pairs: int = 3
    model: Path | None = None

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True)
class Row:
    """One line of the table. `at_least` and `at_most` are targets; a row without any is there to be known."""

    name: str
    figure: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.at_least is not None:
            return self.figure >= self.at_least
        if self.at_most is not None:
            return self.figure <= self.at_most
        return None


def spread(values: Sequence[float], digits: int = 2) -> str:
    """How a median came about: `0.97–1.02 in 3 runs`."""
    return f"{min(values):,.{digits}f}–{max(values):,.{digits}f} in {len(values)} runs"


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank: a value that was measured, none in between."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


__all__ = ["BenchmarkError", "Options", "Row", "median", "percentile", "spread"]
