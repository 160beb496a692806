"""The history of batches as parts: a page of those that are asked for, each in a row of plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.conf import settings
from django.http import QueryDict
from django.urls import reverse
from django.utils import timezone

from batches.models import TERMINAL, Batch, BatchStatus
from batches.pages.history.filters import Filter, form, page
from batches.queue import forecast
from vbs.live.pages import Gone, Page
from vbs.pages.parts import Part, Values, pulse
from vbs.pages.plain import brief
from vbs.pages.viewer import Viewer
from vbs.pages.words import duration

SOON, LATER = 1, 5  # seconds until a page asks again: while something moves, and while nothing does
MOST_NAMES, MOST_LABELS = 2, 3  # of a row; the batch's own page has all
LABEL_CHARACTERS = 40
NAME_CHARACTERS = 200


@dataclass(frozen=True)
class Bar:
    """What became of a batch's requests, as widths of 100."""

    completed: float
    failed: float


@dataclass(frozen=True, kw_only=True)
class Row(Values):
    """A batch. time: how long it took, or is expected to take still."""

    template = "batches/history/_row.html"
    pk: str
    status: str
    models: tuple[str, ...]
    more_models: int
    total: int
    completed: int
    failed: int
    bar: Bar
    created_at: datetime
    time: str
    project: str
    priority: int
    labels: tuple[str, ...]
    more_labels: int


@dataclass(frozen=True, kw_only=True)
class Table(Values):
    """A page of batches; another one when one comes, goes, or is not what is asked for any more.

    newer, older: the pages beside it. narrowed: whether a filter is set, which an empty table depends on. base_url: of
    the API, for who has no batches yet.
    """

    template = "batches/history/_table.html"
    id: str = "table"
    ids: tuple[str, ...]
    narrowed: bool
    newer: str
    older: str
    base_url: str
    children: Sequence[Row] = field(default=(), repr=False)


def build(viewer: Viewer, query: QueryDict) -> dict[str, Part | Values]:
    """Raises Gone when what is asked for cannot be read."""
    given = form(viewer, query)
    if not given.is_valid():
        raise Gone(str(given.errors.as_data()))
    return parts(viewer, Filter(**given.cleaned_data))


def parts(viewer: Viewer, asked: Filter) -> dict[str, Part | Values]:
    batches, newer, older = page(viewer, asked)
    expected: Mapping[str, forecast.Forecast] = {}
    if any(batch.status == BatchStatus.IN_PROGRESS or batch.status == BatchStatus.VALIDATING for batch in batches):
        expected = forecast.plan()
    rows = tuple(_row(batch, expected.get(batch.pk)) for batch in batches)
    table = Table(
        ids=tuple(row.id for row in rows),
        children=rows,
        narrowed=asked.narrows,
        newer=asked.query(after=rows[0].pk) if newer else "",
        older=asked.query(before=rows[-1].pk) if older else "",
        base_url=f"http://{settings.VBS_HOST}:{settings.VBS_PORT}/v1",
    )
    place = {name: value for name in ("before", "after") if (value := getattr(asked, name))}
    moves = any(row.status not in TERMINAL for row in rows)
    url = reverse("batches-live") + asked.query(**place).rstrip("?")
    return {"table": table, "pulse": pulse(url=url, every=SOON if moves else LATER)}


HISTORY = Page(build=build, topics=lambda: ("batches",))


def _row(batch: Batch, expected: forecast.Forecast | None) -> Row:
    labels = tuple(brief(f"{name}: {value}", LABEL_CHARACTERS) for name, value in (batch.metadata or {}).items())
    return Row(
        id=f"row-{batch.pk}",
        pk=batch.pk,
        status=batch.status,
        models=tuple(brief(name, NAME_CHARACTERS) for name in batch.model_names[:MOST_NAMES]),
        more_models=max(0, len(batch.model_names) - MOST_NAMES),
        total=batch.total,
        completed=batch.completed,
        failed=batch.counts.failures,
        bar=_bar(batch),
        created_at=batch.created_at,
        time=_time(batch, expected),
        project=brief(batch.project.name, NAME_CHARACTERS),
        priority=batch.priority,
        labels=labels[:MOST_LABELS],
        more_labels=max(0, len(labels) - MOST_LABELS),
    )


def _bar(batch: Batch) -> Bar:
    share = 100 / batch.total if batch.total else 0.0
    return Bar(round(batch.completed * share, 1), round(batch.counts.failures * share, 1))


def _time(batch: Batch, expected: forecast.Forecast | None) -> str:
    if batch.is_terminal:
        end = getattr(batch, f"{batch.status}_at")
        return duration((end - (batch.in_progress_at or batch.created_at)).total_seconds()) if end else ""
    if expected and expected.completion_at:
        return f"≈ {duration(max(0.0, (expected.completion_at - timezone.now()).total_seconds()))} left"
    return ""
