"""Values over time as charts. Pure: knows no row of the database, no request and no template.

A chart is a table, which a page has behind it: static/charts.js draws what the table says.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from django.utils.text import slugify

from vbs.pages.words import number

Form = Literal["lines", "points", "bars"]
STEPS = (60, 300, 900, 3600, 4 * 3600, 86_400, 7 * 86_400)  # seconds
MOST_STEPS = 60


@dataclass(frozen=True)
class Point:
    """One measurement. kind: which of the chart's series it belongs to."""

    at: datetime
    value: float
    kind: str


@dataclass(frozen=True)
class Amount:
    """So much in so many seconds. at: when that was. kind: which of the chart's series it belongs to."""

    at: datetime
    amount: float
    seconds: float
    kind: str


@dataclass(frozen=True)
class Row:
    """What each kind was at that time, or in the time that begins then; None where it was not measured."""

    at: datetime
    values: tuple[float | None, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        return tuple(map(number, self.values))


@dataclass(frozen=True)
class Chart:
    """form: lines between the values, the values as points, or bars on top of each other. seconds: how long the time of
    a bar is. description: one sentence that says what is to be seen."""

    title: str
    unit: str
    kinds: tuple[str, ...]
    rows: tuple[Row, ...]
    form: Form
    description: str
    seconds: int | None = None

    @property
    def id(self) -> str:
        return f"chart-{slugify(self.title)}"


def lines(title: str, unit: str, kinds: Sequence[str], rows: Sequence[Row], form: Form = "lines") -> Chart | None:
    """Values in the order of their times. None where there are none."""
    kept = tuple(row for row in rows if any(value is not None for value in row.values))
    if not kept:
        return None
    return Chart(title, unit, tuple(kinds), kept, form, _spread(unit, kinds, kept))


def points(title: str, unit: str, measured: Sequence[Point]) -> Chart | None:
    """Measurements in any order; those of one time share a row. What is not finite is left out."""
    measured = sorted((one for one in measured if math.isfinite(one.value)), key=lambda one: one.at)
    kinds = list(dict.fromkeys(one.kind for one in measured))
    found: dict[datetime, list[float | None]] = {}
    for one in measured:
        found.setdefault(one.at, [None] * len(kinds))[kinds.index(one.kind)] = one.value
    return lines(title, unit, kinds, [Row(at, tuple(values)) for at, values in found.items()], "points")


def rates(title: str, unit: str, measured: Sequence[Amount]) -> Chart | None:
    """Amounts a second, in steps so long that there are at most MOST_STEPS. What is in one step is added up, so what
    lasted a moment counts for a moment, and beside long ones it makes no tooth."""
    if not measured:
        return None
    times = [one.at.timestamp() for one in measured]
    step = next((one for one in STEPS if (max(times) - min(times)) / one < MOST_STEPS), STEPS[-1])
    sums: dict[tuple[int, str], list[float]] = {}
    for at, one in zip(times, measured, strict=True):
        found = sums.setdefault((int(at // step), one.kind), [0.0, 0.0])
        found[0] += one.amount
        found[1] += one.seconds
    return points(
        title,
        unit,
        [
            Point(datetime.fromtimestamp(place * step, UTC), amount / seconds, kind)
            for (place, kind), (amount, seconds) in sums.items()
            if seconds > 0
        ],
    )


def bars(title: str, unit: str, kinds: Sequence[str], rows: Sequence[Row], seconds: int) -> Chart:
    """Amounts, each of a time of so many seconds, also where nothing happened. Raises ValueError without a row, and for
    a row that has not one finite amount from 0 on for each kind."""
    if not rows:
        raise ValueError("there is no time to show")
    for row in rows:
        if len(row.values) != len(kinds) or not all(
            value is not None and 0 <= value < math.inf for value in row.values
        ):
            raise ValueError(f"each row must have {len(kinds)} amounts from 0 on, not {row.values}")
    return Chart(title, unit, tuple(kinds), tuple(rows), "bars", _sums(unit, kinds, rows), seconds)


def _spread(unit: str, kinds: Sequence[str], rows: Sequence[Row]) -> str:
    said = []
    for place, kind in enumerate(kinds):
        values = [value for row in rows if (value := row.values[place]) is not None]
        if values:
            spread = number(values[0]) if len(values) == 1 else f"{number(min(values))} to {number(max(values))}"
            said.append(f"{kind}: {spread} {unit}")
    return f"{_span(rows)}: {'; '.join(said)}."


def _sums(unit: str, kinds: Sequence[str], rows: Sequence[Row]) -> str:
    sums = [sum(row.values[place] or 0 for row in rows) for place in range(len(kinds))]
    said = ", ".join(f"{number(total)} {kind}" for kind, total in zip(kinds, sums, strict=True))
    words = f"{unit[:1].upper()}{unit[1:]}, {_span(rows)}: {said}"
    busiest = max(rows, key=_total)
    if len(rows) > 1 and _total(busiest):
        words += f"; most in the time from {busiest.at:%H:%M} on, {number(_total(busiest))}"
    return f"{words}."


def _span(rows: Sequence[Row]) -> str:
    return f"{rows[0].at:%Y-%m-%d %H:%M} to {rows[-1].at:%Y-%m-%d %H:%M} UTC"


def _total(row: Row) -> float:
    return sum(value or 0 for value in row.values)
