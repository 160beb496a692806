"""What of batches the first page shows: those that run, that wait and that have ended last."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import QuerySet
from django.utils import timezone

from batches.models import TERMINAL, Batch
from batches.queue import forecast
from batches.queue.forecast import Forecast
from batches.run import pace
from vbs.pages.parts import Values
from vbs.pages.plain import brief
from vbs.pages.viewer import Viewer
from vbs.pages.words import duration

FIRST = 5  # batches of those that wait, and of those that have ended
RECENT = 50  # of the newest that have ended, those that ended last are shown


@dataclass(frozen=True, kw_only=True)
class Runs(Values):
    """A batch on a worker. pk: empty when it is of a project that the viewer does not see; then little else is told."""

    template = "batches/overview/_runs.html"
    pk: str
    project: str
    model: str
    total: int
    answered: int
    failed: int
    percent: int
    requests_per_second: float | None
    tokens_per_second: float | None
    left: str
    ends_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Running(Values):
    """The batches on workers."""

    template = "batches/overview/_running.html"
    id: str = "running"
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Waits:
    """A batch in the queue. pk: empty when it is of a project that the viewer does not see."""

    place: int
    pk: str
    model: str
    priority: int
    requests: int
    starts_in: str
    starts_at: datetime | None
    why: str


@dataclass(frozen=True, kw_only=True)
class Waiting(Values):
    """How many wait, and the first of them in the order of the queue."""

    template = "batches/overview/_waiting.html"
    id: str = "waiting"
    count: int
    first: tuple[Waits, ...]

    @property
    def more(self) -> int:
        return self.count - len(self.first)


@dataclass(frozen=True)
class Past:
    pk: str
    project: str
    model: str
    status: str
    words: str
    completed: int
    failed: int
    at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Ended(Values):
    """The viewer's batches that have ended, the last first."""

    template = "batches/overview/_ended.html"
    id: str = "ended"
    rows: tuple[Past, ...]


def running(viewer: Viewer, taken: Sequence[Batch]) -> Running:
    forecasts = forecast.plan()
    rows = tuple(_runs(viewer, place, batch, forecasts.get(batch.pk)) for place, batch in enumerate(taken))
    return Running(ids=tuple(row.id for row in rows), children=rows)


def _runs(viewer: Viewer, place: int, batch: Batch, expected: Forecast | None) -> Runs:
    own = viewer.sees(batch.project_id)
    counts, speed = batch.counts, pace.of(batch)
    end = expected.completion_at if expected else None
    return Runs(
        id=f"runs-{batch.pk}" if own else f"runs-{place}",
        pk=batch.pk if own else "",
        project=brief(batch.project.name) if own else "",
        model=_models(batch) if own else "",
        total=batch.total,
        answered=counts.answered,
        failed=counts.failures if own else 0,
        percent=int(batch.percent()),
        requests_per_second=speed.requests_per_second if own else None,
        tokens_per_second=speed.tokens_per_second if own else None,
        left=_until(end),
        ends_at=end.replace(second=0, microsecond=0) if end else None,
    )


def waiting(viewer: Viewer, paused: bool) -> Waiting:
    """While the queue is paused nobody knows when anything starts."""
    queue = Batch.objects.waiting()
    forecasts = forecast.plan()
    rows = []
    for place, batch in enumerate(queue.select_related("project")[:FIRST], 1):
        own = viewer.sees(batch.project_id)
        expected = Forecast() if paused else forecasts.get(batch.pk, Forecast())
        row = Waits(
            place=place,
            pk=batch.pk if own else "",
            model=_models(batch) if own else "",
            priority=batch.priority,
            requests=batch.total,
            starts_in=_until(expected.start_at),
            starts_at=expected.start_at.replace(second=0, microsecond=0) if expected.start_at else None,
            why=expected.why if own else "",
        )
        rows.append(row)
    return Waiting(count=queue.count(), first=tuple(rows))


def ended(viewer: Viewer) -> Ended:
    rows = _newest(viewer.own(Batch.objects.filter(hidden=False)))
    rows.sort(key=lambda batch: (_end(batch) or batch.created_at, batch.pk), reverse=True)
    return Ended(rows=tuple(map(_past, rows[:FIRST])))


def _newest(own: QuerySet[Batch]) -> list[Batch]:
    newest = own.filter(status__in=TERMINAL).select_related("project").order_by("-pk")
    return list(newest.defer("errors", "resolved", "metadata")[:RECENT])


def _past(batch: Batch) -> Past:
    return Past(
        pk=batch.pk,
        project=brief(batch.project.name),
        model=_models(batch),
        status=batch.status,
        words=batch.get_status_display().lower(),
        completed=batch.completed,
        failed=batch.counts.failures,
        at=_end(batch),
    )


def _end(batch: Batch) -> datetime | None:
    at: datetime | None = getattr(batch, f"{batch.status}_at")
    return at


def _models(batch: Batch) -> str:
    names: list[str] = batch.model_names
    if not names:
        return ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return brief(names[0], 60) + more


def _until(at: datetime | None) -> str:
    """How long it is till then. So rounded that it does not change with every look."""
    if at is None:
        return ""
    seconds = (at - timezone.now()).total_seconds()
    return "in less than a minute" if seconds < 60 else f"in about {duration(seconds)}"
