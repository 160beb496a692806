"""What of batches the first page shows: those that run, that wait and that have ended last."""

from collections.abc import Sequence
from datetime import datetime

from django.db.models import QuerySet

from batches.models import TERMINAL, Batch
from batches.queue import forecast
from batches.queue.forecast import Forecast
from batches.run import pace
from vbs.pages.parts import Part
from vbs.pages.viewer import Viewer

FIRST = 5  # batches of those that wait, and of those that have ended
RECENT = 50  # of the newest that have ended, those that ended last are shown


def running(viewer: Viewer, taken: Sequence[Batch]) -> Part:
    """The batches on workers. Of one of a project that the viewer does not see little is told."""
    forecasts = forecast.plan()
    runs = [_runs(viewer, place, batch, forecasts.get(batch.pk)) for place, batch in enumerate(taken)]
    return Part("running", "batches/overview/_running.html", {}, runs)


def _runs(viewer: Viewer, place: int, batch: Batch, expected: Forecast | None) -> Part:
    own = viewer.sees(batch.project_id)
    context = {
        "batch": batch,
        "own": own,
        "percent": int(batch.percent()),
        "speed": pace.of(batch),
        "ends_at": expected.completion_at if expected else None,
    }
    return Part(f"runs-{batch.pk if own else place}", "batches/overview/_runs.html", context)


def waiting(viewer: Viewer, paused: bool) -> Part:
    """How many wait, and the first of them in the order of the queue. While it is paused nobody knows when anything
    starts."""
    queue = Batch.objects.waiting()
    first = list(queue.select_related("project")[:FIRST])
    count, forecasts = queue.count(), {} if paused else forecast.plan()
    rows = [(batch, viewer.sees(batch.project_id), forecasts.get(batch.pk, Forecast())) for batch in first]
    return Part("waiting", "batches/overview/_waiting.html", {"count": count, "rows": rows, "more": count - len(rows)})


def ended(viewer: Viewer) -> Part:
    """The viewer's batches that have ended, the last first."""
    rows = [(batch, _end(batch)) for batch in _newest(viewer.own(Batch.objects.filter(hidden=False)))]
    rows.sort(key=lambda row: (row[1] or row[0].created_at, row[0].pk), reverse=True)
    return Part("ended", "batches/overview/_ended.html", {"rows": rows[:FIRST]})


def _newest(own: QuerySet[Batch]) -> list[Batch]:
    newest = own.filter(status__in=TERMINAL).select_related("project").order_by("-pk")
    return list(newest.defer("errors", "resolved", "metadata")[:RECENT])


def _end(batch: Batch) -> datetime | None:
    at: datetime | None = getattr(batch, f"{batch.status}_at")
    return at
