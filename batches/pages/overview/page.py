"""The first page: what runs and waits, how the machine is, what the last day brought, and what there is to do."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.http import QueryDict
from django.urls import reverse

from batches import activity_day
from batches.models import Batch, Pause
from batches.pages.overview import batches
from batches.pages.overview.first_steps import first_steps
from batches.pages.overview.health import health
from models_registry.models import Worker
from models_registry.pages.parts import Machines
from models_registry.pages.rows import machine_of
from vbs.live.pages import Page
from vbs.pages.charts.bars import Bar, Bars, bars
from vbs.pages.parts import Part, Values, pulse
from vbs.pages.plain import brief
from vbs.pages.viewer import Viewer

SOON, LATER = 1, 5  # seconds until a page asks again: while something runs, and while nothing does


@dataclass(frozen=True, kw_only=True)
class Banner(Values):
    """That no batch is run for now. at: since when, or None while the queue goes on."""

    template = "batches/overview/_banner.html"
    id: str = "paused"
    at: datetime | None = None
    asked_by: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Day(Values):
    """The last 24 hours of the viewer's projects: sums, and hour by hour."""

    template = "batches/overview/_day.html"
    id: str = "day"
    completed: int
    failed: int
    input_tokens: int
    output_tokens: int
    plots: tuple[Bars, ...] = field(repr=False)  # they follow from the hours
    hours: tuple[activity_day.Hour, ...]


def build(viewer: Viewer, query: QueryDict) -> dict[str, Part | Values]:
    """A fixed number of queries; the forecast and the day's sums are worked out anew every few seconds only."""
    workers = list(Worker.objects.order_by("started_at"))
    taken = list(Batch.objects.running().select_related("project").order_by("pk")[:100])
    banner, running = _banner(), batches.running(viewer, taken)
    machines = _machines(viewer, workers)
    return {
        "banner": banner,
        "steps": first_steps(viewer),
        "machines": machines,
        "running": running,
        "waiting": batches.waiting(viewer, paused=banner.at is not None),
        "ended": batches.ended(viewer),
        "day": _day(activity_day.hours(viewer)),
        "health": health(workers, viewer),
        "pulse": pulse(url=reverse("overview-live"), every=SOON if running.ids or machines.busy else LATER),
    }


PAGE = Page(build=build, topics=lambda: ("batches", "workers", "models"))


def _banner() -> Banner:
    pause = Pause.objects.filter(ended_at=None).first()
    if pause is None:
        return Banner()
    return Banner(at=pause.began_at, asked_by=brief(pause.asked_by), reason=brief(pause.reason, 500))


def _machines(viewer: Viewer, workers: Sequence[Worker]) -> Machines:
    shown = tuple(machine_of(worker, viewer) for worker in workers if worker.cluster == "gpu" and worker.alive)
    return Machines(ids=tuple(machine.id for machine in shown), children=shown)


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
