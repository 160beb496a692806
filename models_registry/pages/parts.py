"""The parts of the pages of models."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from vbs.pages.charts.plots import Plot
from vbs.pages.parts import Values


@dataclass(frozen=True)
class Reading:
    """One number of a machine. percent: of what there is or may be, if that makes sense. warns: much of it is bad."""

    name: str
    text: str
    percent: int | None = None
    warns: bool = True


@dataclass(frozen=True, kw_only=True)
class Machine(Values):
    """A worker that serves models. doing: in words, unless it is idle. waits: why an idle one takes up no work. lost:
    that its engine ended while it was idle."""

    template = "models/_machine.html"
    host: str
    doing: str
    waits: str
    model: str
    lost: str = ""
    readings: tuple[Reading, ...]


@dataclass(frozen=True, kw_only=True)
class Machines(Values):
    """The workers that are alive."""

    template = "models/_machines.html"
    id: str = "machines"
    ids: tuple[str, ...]
    children: Sequence[Machine] = field(default=(), repr=False)

    @property
    def busy(self) -> bool:
        return any(machine.doing for machine in self.children)


@dataclass(frozen=True)
class Fetching:
    """A download that is not done. note: rate and time left, or why it failed."""

    state: str
    moves: bool
    percent: int
    amount: str
    note: str


@dataclass(frozen=True)
class Doing:
    """In a line, the operation that is under way or waits, or the last one that failed."""

    id: str
    kind: str
    state: str
    open: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class Row(Values):
    """A model in the table. actions: what can be done with it now, each with what its button says."""

    template = "models/_row.html"
    pk: int
    name: str
    aliases: tuple[str, ...]
    base: str
    state: str
    reason: str
    task: str
    kind: str
    size: str
    window: str
    fit_id: str  # empty when there is nothing to ask; another one when the answer may be another
    speed: tuple[str, ...]  # empty when it was never measured
    loaded: bool
    asleep: bool
    runs_code: bool
    fetching: Fetching | None
    doing: Doing | None
    actions: tuple[tuple[str, str], ...]

    @property
    def moves(self) -> bool:
        return bool((self.fetching and self.fetching.moves) or (self.doing and self.doing.open))


@dataclass(frozen=True, kw_only=True)
class Summary(Row):
    """A model at the top of its own page."""

    template = "models/_summary.html"


@dataclass(frozen=True, kw_only=True)
class Table(Values):
    """Every model, adapters after their base; another one only when a model comes or goes."""

    template = "models/_table.html"
    id: str = "table"
    ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class History(Values):
    """The last operations of a model."""

    template = "models/_history.html"
    id: str = "history"
    ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Ran(Values):
    """An operation with its log and what came out. unfold: whether it is shown open."""

    template = "models/_operation.html"
    kind: str
    state: str
    open: bool
    unfold: bool
    asked_by: str
    at: datetime
    took: str
    log: str
    error: str
    question: str
    answer: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Measurements:
    at: datetime
    kind: str
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Measured(Values):
    """What was measured, as plots and as a table."""

    template = "models/_measured.html"
    id: str = "measured"
    plots: tuple[Plot, ...]
    columns: tuple[str, ...]
    rows: tuple[Measurements, ...]
    more: int
