"""The parts of the page of one batch. What moves is small: the bar, the pace, the plots, the log."""

from dataclasses import dataclass
from datetime import datetime

from vbs.pages.charts.plots import Plot
from vbs.pages.parts import Values


@dataclass(frozen=True, kw_only=True)
class Head(Values):
    """state: as it is shown, `waiting` while it is validated and has not begun. retries: whether what has no good
    answer can be run again: `failed`, and `left` that were never run."""

    template = "batches/detail/_head.html"
    id: str = "head"
    pk: str
    state: str
    reason: str
    cancels: bool
    retries: bool
    failed: int
    left: int

    @property
    def words(self) -> str:
        return self.state.replace("_", " ")


@dataclass(frozen=True, kw_only=True)
class Bar(Values):
    """good, bad: widths of 1000."""

    template = "batches/detail/_bar.html"
    id: str = "bar"
    ended: bool
    total: int
    completed: int
    failed: int
    not_run: int
    pending: int
    percent: str
    good: int
    bad: int


@dataclass(frozen=True, kw_only=True)
class Going(Values):
    """How fast it goes, when it starts and ends; `why` where that is not known."""

    template = "batches/detail/_going.html"
    id: str = "going"
    readings: tuple[tuple[str, str], ...]
    starts: datetime | None
    ends: datetime | None
    why: str


@dataclass(frozen=True)
class Step:
    """A state that it has been in. took: empty while it lasts."""

    name: str
    at: datetime
    took: str
    current: bool


@dataclass(frozen=True, kw_only=True)
class Timeline(Values):
    template = "batches/detail/_timeline.html"
    id: str = "timeline"
    steps: tuple[Step, ...]
    whole: str


@dataclass(frozen=True, kw_only=True)
class Settings(Values):
    """models: of each the name that was asked for, what it stands for, its revision, and its key in the registry."""

    template = "batches/detail/_settings.html"
    id: str = "settings"
    project: str
    models: tuple[tuple[str, str, str, int | None], ...]
    facts: tuple[tuple[str, str], ...]
    expires: datetime
    metadata: tuple[tuple[str, str], ...]
    retry_of: str
    retry_of_shown: bool
    retries: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Speed(Values):
    template = "batches/detail/_speed.html"
    id: str = "speed"
    plots: tuple[Plot, ...]
    ended: bool


@dataclass(frozen=True)
class Charge:
    """One model's share: name, key in the registry, requests, tokens in and out, prices in and out, and cost."""

    name: str
    pk: int | None
    requests: int | None
    input_tokens: int | None
    output_tokens: int | None
    prices: str
    cost: str


@dataclass(frozen=True, kw_only=True)
class Spent(Values):
    """gone: requests can no longer be told apart by model."""

    template = "batches/detail/_spent.html"
    id: str = "spent"
    tokens: tuple[tuple[str, int], ...]
    cost: str
    currency: str
    charges: tuple[Charge, ...]
    gone: bool


@dataclass(frozen=True, kw_only=True)
class Prices(Values):
    """unpriced: models without a price, each with its key in the registry."""

    template = "batches/detail/_prices.html"
    id: str = "prices"
    unpriced: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True)
class Problem:
    line: int | None
    code: str
    param: str
    message: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Problems(Values):
    """Why validation failed. unread: why the lines' texts are not shown."""

    template = "batches/detail/_problems.html"
    id: str = "problems"
    pk: str
    count: int
    shown: tuple[Problem, ...]
    more: int
    unread: str


@dataclass(frozen=True, kw_only=True)
class Files(Values):
    """Of the output and the error file: its name in the address, in words, its lines (0 while it runs, or a button
    would be another one all the time), its size where it is written, and whether it can be had."""

    template = "batches/detail/_files.html"
    id: str = "files"
    pk: str
    files: tuple[tuple[str, str, int, int | None, bool], ...]
    so_far: bool


@dataclass(frozen=True, kw_only=True)
class Log(Values):
    template = "batches/detail/_log.html"
    id: str = "log"
    pk: str
    lines: tuple[tuple[datetime, str, str], ...]
    more: bool
