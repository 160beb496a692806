"""The first page: whether all is well, the first steps, what runs, waits and has ended, and the last day."""

from collections.abc import Sequence

from django.http import QueryDict
from django.urls import reverse

from batches import activity_day
from batches.models import Batch, Pause
from batches.pages import running
from batches.pages.overview import batches
from batches.pages.overview.first_steps import first_steps
from batches.pages.overview.health import health
from batches.queue import entries
from models_registry.gpu import operations
from models_registry.models import Operation, OperationState, Worker
from models_registry.pages.machines import busy
from vbs.live.pages import Page
from vbs.pages.charts.series import Row, bars
from vbs.pages.parts import LATER, SOON, Part, pulse
from vbs.pages.viewer import Viewer

HOUR = 3600  # seconds
MOST = 100  # batches that run


def build(viewer: Viewer, query: QueryDict) -> dict[str, Part]:
    """Makes a fixed number of queries. The forecast and the sums of the day are worked out again every few seconds
    only."""
    workers = list(Worker.objects.order_by("started_at"))
    serving = [worker for worker in workers if worker.cluster == "gpu" and worker.alive]
    taken = list(Batch.objects.running().select_related("project")[:MOST])
    on = entries.engines(taken)
    pause = Pause.objects.filter(ended_at=None).first()
    steps, ended = first_steps(viewer), batches.ended(viewer)
    waiting = batches.waiting(viewer, paused=pause is not None)
    asked = Operation.objects.filter(state=OperationState.RUNNING).select_related("model").defer("log", "result")
    at_work = [running.operation(row, serving) for row in asked.order_by("pk")[: operations.MOST_OPEN]]
    waits = bool(waiting.context["count"])
    shown = {"waits": waits, "is_new": bool(steps.context) and not (waits or ended.context["rows"])}
    return {
        "health": health(workers, viewer, first_steps=bool(steps.context)),
        "banner": Part("paused", "batches/overview/_banner.html", {"pause": pause}),
        "steps": steps,
        "running": running.section(viewer, serving, taken, on, "batches/overview/_running.html", also=at_work, **shown),
        "waiting": waiting,
        "ended": ended,
        "day": _day(activity_day.hours(viewer)),
        "pulse": pulse(reverse("overview-live"), SOON if taken or busy(serving) else LATER),
    }


PAGE = Page(build=build, topics=lambda: ("batches", "workers", "models"))


def _day(hours: Sequence[activity_day.Hour]) -> Part:
    """The last 24 hours of the viewer's projects: sums, and values per hour."""
    requests = [Row(hour.at, (hour.completed, hour.failed)) for hour in hours]
    tokens = [Row(hour.at, (hour.input_tokens, hour.output_tokens)) for hour in hours]
    context = {
        "hides": not any(hour.completed or hour.failed for hour in hours),
        "completed": sum(hour.completed for hour in hours),
        "failed": sum(hour.failed for hour in hours),
        "input_tokens": sum(hour.input_tokens for hour in hours),
        "output_tokens": sum(hour.output_tokens for hour in hours),
        "charts": [
            bars("Requests an hour", "requests", ("completed", "failed"), requests, HOUR),
            bars("Tokens an hour", "tokens", ("input", "output"), tokens, HOUR),
        ],
    }
    return Part("day", "batches/overview/_day.html", context)
