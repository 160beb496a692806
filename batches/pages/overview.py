"""The first page: what runs and waits, how the machine is, what the last day brought, and what there is to do."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from django.db.models import QuerySet
from django.http import QueryDict
from django.urls import reverse
from django.utils import timezone

from batches import activity_day, forecast
from batches.forecast import Forecast
from batches.models import TERMINAL, Batch, Pause
from batches.pages.first_steps import first_steps
from batches.pages.health import health
from models_registry.models import Worker
from models_registry.pages import machine_of
from models_registry.parts import Machine, Machines
from vbs.live import Page
from vbs.pages.bars import Bar, Bars, bars
from vbs.pages.parts import Part, Pulse
from vbs.pages.viewer import Viewer
from vbs.pages.words import duration

FIRST = 5  # batches of those that wait, and of those that have ended
RECENT = 50  # of the newest that have ended, those that ended last are shown
SOON, LATER = 1, 5  # seconds until a page asks again: while something runs, and while nothing does
BATCH = re.compile(r"\bbatch_\w+")


@dataclass(frozen=True, kw_only=True)
class Banner(Part):
    """That no batch is run for now. at: since when, or None while the queue goes on."""

    template = "batches/overview/_banner.html"
    id: str = "paused"
    at: datetime | None = None
    asked_by: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Runs(Part):
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
class Running(Part):
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
class Waiting(Part):
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
class Ended(Part):
    """The viewer's batches that have ended, the last first."""

    template = "batches/overview/_ended.html"
    id: str = "ended"
    rows: tuple[Past, ...]


@dataclass(frozen=True, kw_only=True)
class Day(Part):
    """The last 24 hours of the viewer's projects: sums, and hour by hour."""

    template = "batches/overview/_day.html"
    id: str = "day"
    completed: int
    failed: int
    input_tokens: int
    output_tokens: int
    plots: tuple[Bars, ...] = field(repr=False)  # they follow from the hours
    hours: tuple[activity_day.Hour, ...]


def build(viewer: Viewer, query: QueryDict) -> dict[str, Part]:
    """A fixed number of queries; the forecast and the day's sums are worked out anew every few seconds only."""
    workers = list(Worker.objects.order_by("started_at"))
    taken = list(Batch.objects.running().select_related("project").order_by("pk")[:100])
    banner, running = _banner(), _running(viewer, taken)
    machines = _machines(viewer, workers, taken)
    return {
        "banner": banner,
        "steps": first_steps(viewer),
        "machines": machines,
        "running": running,
        "waiting": _waiting(viewer, paused=banner.at is not None),
        "ended": _ended(viewer),
        "day": _day(activity_day.hours(viewer)),
        "health": health(workers),
        "pulse": Pulse(url=reverse("overview-live"), every=SOON if running.ids or machines.busy else LATER),
    }


PAGE = Page(build=build, topics=lambda: ("batches", "workers", "models"))


def _banner() -> Banner:
    pause = Pause.objects.filter(ended_at=None).first()
    return Banner(at=pause.began_at, asked_by=pause.asked_by, reason=pause.reason) if pause else Banner()


def _machines(viewer: Viewer, workers: Sequence[Worker], taken: Sequence[Batch]) -> Machines:
    """What a worker says that it does names the batch: of a project that is not seen, it does not."""
    known = {batch.pk for batch in taken if viewer.sees(batch.project_id)}

    def named(words: str) -> str:
        return BATCH.sub(lambda found: found[0] if found[0] in known else "a batch of another project", words)

    def seen(machine: Machine) -> Machine:
        return replace(machine, doing=named(machine.doing), waits=named(machine.waits))

    shown = tuple(seen(machine_of(worker)) for worker in workers if worker.cluster == "gpu" and worker.alive)
    return Machines(ids=tuple(machine.id for machine in shown), children=shown)


# Batches


def _running(viewer: Viewer, taken: Sequence[Batch]) -> Running:
    forecasts = forecast.plan()
    rows = tuple(_runs(viewer, place, batch, forecasts.get(batch.pk)) for place, batch in enumerate(taken))
    return Running(ids=tuple(row.id for row in rows), children=rows)


def _runs(viewer: Viewer, place: int, batch: Batch, expected: Forecast | None) -> Runs:
    own = viewer.sees(batch.project_id)
    answered = batch.completed + batch.failed
    end = expected.completion_at if expected else None
    return Runs(
        id=f"runs-{batch.pk}" if own else f"runs-{place}",
        pk=batch.pk if own else "",
        project=batch.project.name if own else "",
        model=_models(batch) if own else "",
        total=batch.total,
        answered=answered,
        failed=batch.failed if own else 0,
        percent=100 * answered // batch.total if batch.total else 0,
        requests_per_second=batch.requests_per_second if own else None,
        tokens_per_second=batch.tokens_per_second if own else None,
        left=_until(end),
        ends_at=end.replace(second=0, microsecond=0) if end else None,
    )


def _waiting(viewer: Viewer, paused: bool) -> Waiting:
    """While the queue is paused nobody knows when anything starts."""
    waiting = Batch.objects.waiting()
    forecasts = forecast.plan()
    rows = []
    for place, batch in enumerate(waiting.select_related("project")[:FIRST], 1):
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
    return Waiting(count=waiting.count(), first=tuple(rows))


def _ended(viewer: Viewer) -> Ended:
    rows = _newest(viewer.own(Batch.objects.filter(hidden=False)))
    rows.sort(key=lambda batch: (_end(batch) or batch.created_at, batch.pk), reverse=True)
    return Ended(rows=tuple(map(_past, rows[:FIRST])))


def _newest(own: QuerySet[Batch]) -> list[Batch]:
    newest = own.filter(status__in=TERMINAL).select_related("project").order_by("-pk")
    return list(newest.defer("errors", "resolved", "metadata")[:RECENT])


def _past(batch: Batch) -> Past:
    return Past(
        pk=batch.pk,
        project=batch.project.name,
        model=_models(batch),
        status=batch.status,
        words=batch.get_status_display().lower(),
        completed=batch.completed,
        failed=batch.failed,
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
    return (names[0] if len(names[0]) <= 60 else f"{names[0][:60]}…") + more


def _until(at: datetime | None) -> str:
    """How long it is till then. So rounded that it does not change with every look."""
    if at is None:
        return ""
    seconds = (at - timezone.now()).total_seconds()
    return "in less than a minute" if seconds < 60 else f"in about {duration(seconds)}"


# The last day


def _day(hours: Sequence[activity_day.Hour]) -> Day:
    requests = [Bar(hour.at, (hour.completed, hour.failed)) for hour in hours]
    tokens = [Bar(hour.at, (hour.input_tokens, hour.output_tokens)) for hour in hours]
    return Day(
        completed=sum(hour.completed for hour in hours),
        failed=sum(hour.failed for hour in hours),
        input_tokens=sum(hour.input_tokens for hour in hours),
        output_tokens=sum(hour.output_tokens for hour in hours),
        plots=(
            bars("Requests an hour", "requests", ("completed", "failed"), requests),
            bars("Tokens an hour", "tokens", ("read", "written"), tokens),
        ),
        hours=tuple(hours),
    )
