"""Measurements as plots: marks and ticks at places in an SVG. Pure: knows no row, no request and no template."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

WIDTH, HEIGHT = 640, 200  # of the SVG's own units
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 12, 28  # around the plot, for the ticks' texts
TICKS = 4  # at most so many steps from 0 to the top


@dataclass(frozen=True)
class Point:
    """One measurement. kind: what its mark and its line are drawn as."""

    at: datetime
    value: float
    kind: str


@dataclass(frozen=True)
class Mark:
    x: str
    y: str
    kind: str
    text: str


@dataclass(frozen=True)
class Tick:
    place: str
    text: str


@dataclass(frozen=True)
class Line:
    kind: str
    points: str


@dataclass(frozen=True)
class Plot:
    """What an SVG of WIDTH × HEIGHT shows; places are texts, so that no locale can change them."""

    title: str
    description: str
    kinds: tuple[str, ...]
    marks: tuple[Mark, ...]
    lines: tuple[Line, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    left: int = LEFT
    right: int = WIDTH - RIGHT
    floor: int = HEIGHT - BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


def plot(title: str, unit: str, points: Sequence[Point], marked: bool = True) -> Plot | None:
    """Values over time from 0 up, the marks of a kind joined by a line. None where there is nothing to draw. marked:
    whether the marks themselves are drawn, which many that are close together need not be."""
    points = sorted((one for one in points if math.isfinite(one.value)), key=lambda one: one.at)
    if not points:
        return None
    step = step_to(max(one.value for one in points))
    top = step * max(1, math.ceil(max(one.value for one in points) / step - 1e-9))
    first, last = points[0].at, points[-1].at
    span = (last - first).total_seconds()

    def x(at: datetime) -> float:
        part = (at - first).total_seconds() / span if span else 0.5
        return LEFT + 12 + part * (WIDTH - LEFT - RIGHT - 24)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - max(0.0, value) / top * (HEIGHT - TOP - BOTTOM)

    def mark(one: Point) -> Mark:
        text = f"{one.kind}: {_number(one.value)} {unit}, {_full(one.at)}"
        return Mark(_place(x(one.at)), _place(y(one.value)), one.kind, text)

    marks = tuple(map(mark, points))
    kinds = tuple(dict.fromkeys(one.kind for one in points))
    lines = (Line(kind, " ".join(f"{one.x},{one.y}" for one in marks if one.kind == kind)) for kind in kinds)
    return Plot(
        title=title,
        description=_description(points, kinds, unit),
        kinds=kinds,
        marks=marks if marked else (),
        lines=tuple(line for line in lines if " " in line.points),
        across=_across(first, last, x),
        up=tuple(Tick(_place(y(step * n)), _number(step * n)) for n in range(round(top / step) + 1)),
    )


def step_to(most: float) -> float:
    """A round step (1, 2 or 5 times a power of ten), of which at most TICKS reach the largest value."""
    if most <= 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(most / TICKS))
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor * TICKS >= most * (1 - 1e-9))


def _across(first: datetime, last: datetime, x: Callable[[datetime], float]) -> tuple[Tick, ...]:
    if first == last:
        return (Tick(_place(x(first)), _full(first)),)
    form = "%H:%M:%S" if (last - first).total_seconds() < 600 else "%d %b %H:%M"
    places = [first + (last - first) * part for part in (0, 0.5, 1)]
    return tuple(Tick(_place(x(at)), at.strftime(form)) for at in places)


def _description(points: Sequence[Point], kinds: Sequence[str], unit: str) -> str:
    parts = []
    for kind in kinds:
        values = [one.value for one in points if one.kind == kind]
        spread = _number(values[-1]) if len(values) == 1 else f"{_number(min(values))} to {_number(max(values))}"
        parts.append(f"{len(values)} × {kind}: {spread} {unit}")
    return "; ".join(parts)


def _place(number: float) -> str:
    return f"{number:.1f}"


def _number(value: float) -> str:
    """As short as it can be said, in three digits or more."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{float(f'{value:.3g}'):g}"


def _full(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M")
