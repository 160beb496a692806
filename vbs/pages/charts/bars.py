"""Amounts over time as stacked bars: rectangles at places in an SVG. Pure: knows no row, no request, no template."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from vbs.pages.charts.plots import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Tick, step_to
from vbs.pages.words import number

HEIGHT = 160  # of the SVG's own units
GAP = 0.2  # of a bar's room is left free
LEAST = 1.0  # units that an amount above zero has at least, so that one failure among a million is seen
LABELS = 6  # at most so many moments are written below


@dataclass(frozen=True)
class Bar:
    """What happened in the time that begins then: an amount for each kind, in the plot's order."""

    at: datetime
    amounts: tuple[float, ...]


@dataclass(frozen=True)
class Piece:
    """A rectangle; places are texts, so that no locale can change them."""

    x: str
    y: str
    width: str
    height: str
    kind: str


@dataclass(frozen=True)
class Column:
    """The pieces of one time, from the floor up. text: what it says when it is pointed at."""

    x: str
    width: str
    pieces: tuple[Piece, ...]
    text: str


@dataclass(frozen=True)
class Bars:
    """What an SVG of WIDTH × HEIGHT shows."""

    title: str
    description: str
    kinds: tuple[str, ...]
    columns: tuple[Column, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    empty: bool
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    depth: int = HEIGHT - BOTTOM - TOP
    width: int = WIDTH
    height: int = HEIGHT


def bars(title: str, unit: str, kinds: Sequence[str], rows: Sequence[Bar]) -> Bars:
    """A column for each row, in their order, also where nothing happened. Raises ValueError without a row, and for a
    row that has not one finite amount from 0 on for each kind."""
    if not rows:
        raise ValueError("there is no time to show")
    if any(len(row.amounts) != len(kinds) or not all(0 <= one < math.inf for one in row.amounts) for row in rows):
        raise ValueError(f"each row must have {len(kinds)} amounts from 0 on")
    most = max(sum(row.amounts) for row in rows)
    step = max(1.0, step_to(most))
    top = step * max(1, math.ceil(most / step - 1e-9))
    room = (WIDTH - LEFT - RIGHT) / len(rows)
    scale = (HEIGHT - TOP - BOTTOM) / top

    def column(index: int, row: Bar) -> Column:
        x, width = LEFT + room * (index + GAP / 2), room * (1 - GAP)
        pieces, floor = [], float(HEIGHT - BOTTOM)
        for kind, amount in zip(kinds, row.amounts, strict=True):
            if amount:
                height = max(LEAST, amount * scale)
                floor -= height
                pieces.append(Piece(_place(x), _place(floor), _place(width), _place(height), kind))
        amounts = ", ".join(f"{number(one)} {kind}" for kind, one in zip(kinds, row.amounts, strict=True))
        return Column(_place(LEFT + room * index), _place(room), tuple(pieces), f"{row.at:%d %b %H:%M}: {amounts}")

    return Bars(
        title=title,
        description=_description(unit, kinds, rows),
        kinds=tuple(kinds),
        columns=tuple(column(index, row) for index, row in enumerate(rows)),
        across=_across(rows, room),
        up=tuple(
            Tick(_place(HEIGHT - BOTTOM - step * n * scale), _short(step * n)) for n in range(round(top / step) + 1)
        ),
        empty=not most,
    )


def _across(rows: Sequence[Bar], room: float) -> tuple[Tick, ...]:
    every = math.ceil(len(rows) / LABELS)
    return tuple(
        Tick(_place(LEFT + room * (index + 0.5)), f"{row.at:%H:%M}")
        for index, row in enumerate(rows)
        if index % every == every // 2
    )


def _description(unit: str, kinds: Sequence[str], rows: Sequence[Bar]) -> str:
    sums = [sum(row.amounts[index] for row in rows) for index in range(len(kinds))]
    said = ", ".join(f"{number(total)} {kind}" for kind, total in zip(kinds, sums, strict=True))
    words = f"{unit[:1].upper()}{unit[1:]} from {rows[0].at:%Y-%m-%d %H:%M} to {rows[-1].at:%Y-%m-%d %H:%M} UTC: {said}"
    busiest = max(rows, key=lambda row: sum(row.amounts))
    if len(rows) > 1 and sum(busiest.amounts) > 0:
        words += f"; most in the time from {busiest.at:%H:%M} on, {number(sum(busiest.amounts))}"
    return words + "."


def _place(value: float) -> str:
    return f"{value:.1f}"


def _short(value: float) -> str:
    """For the axis: 1.5 M rather than 1,500,000."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {letter}"
    return f"{value:g}"
