"""The batches on the first page: those that run, that wait, and that ended last."""

from collections.abc import Sequence
from datetime import datetime

from django.db.models import QuerySet

from batches import phase
from batches.models import TERMINAL, Batch
from batches.pages.share import share_words
from batches.queue import forecast
from batches.queue.entries import shares
from batches.queue.snapshot import Forecast
from batches.run import pace
from vbs.pages.parts import Part
from vbs.pages.viewer import Viewer

FIRST = 5  # batches of those that wait, and of those that have ended
RECENT = 50  # the page looks at the newest ended batches, and shows those that ended last


def running(viewer: Viewer, taken: Sequence[Batch]) -> Part:
    """The batches on workers. A batch of a project that the viewer does not see is shown without its details."""
    forecasts, parts = forecast.plan(), shares(taken)
    runs = [
        _runs(viewer, place, batch, forecasts.get(batch.pk), parts.get(batch.pk)) for place, batch in enumerate(taken)
    ]
    return Part("running", "batches/overview/_running.html", {}, runs)


def _runs(viewer: Viewer, place: int, batch: Batch, expected: Forecast | None, share: float | None) -> Part:
    own = viewer.sees(batch.project_id)
    context = {
        "batch": batch,
        "own": own,
        "state": phase.word(batch),
        "percent": int(batch.percent()),
        "speed": pace.of(batch),
        "share": share_words(share),
        "ends_at": expected.completion_at if expected else None,
    }
    return Part(f"runs-{batch.pk if own else place}", "batches/overview/_runs.html", context)


def waiting(viewer: Viewer, paused: bool) -> Part:
    """How many batches wait, and the first of them in the queue's order. There is no forecast while the queue is
    paused."""
    queue = Batch.objects.waiting()
    first = list(queue.select_related("project")[:FIRST])
    count, forecasts = queue.count(), {} if paused else forecast.plan()
    rows = [(batch, viewer.sees(batch.project_id), forecasts.get(batch.pk, Forecast())) for batch in first]
    return Part("waiting", "batches/overview/_waiting.html", {"count": count, "rows": rows, "more": count - len(rows)})


def ended(viewer: Viewer) -> Part:
    """The viewer's batches that ended, the last one first."""
    rows = [(batch, _end(batch)) for batch in _newest(viewer.own(Batch.objects.filter(hidden=False)))]
    rows.sort(key=lambda row: (row[1] or row[0].created_at, row[0].pk), reverse=True)
    return Part("ended", "batches/overview/_ended.html", {"rows": rows[:FIRST]})


def _newest(own: QuerySet[Batch]) -> list[Batch]:
    newest = own.filter(status__in=TERMINAL).select_related("project").order_by("-pk")
    return list(newest.defer("errors", "resolved", "metadata")[:RECENT])


def _end(batch: Batch) -> datetime | None:
    at: datetime | None = getattr(batch, f"{batch.status}_at")
    return at
