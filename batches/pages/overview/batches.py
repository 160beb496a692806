"""The batches on the first page: those that wait, and those that ended last. `batches.pages.running` has what runs."""

from datetime import datetime

from django.db.models import QuerySet

from batches.models import TERMINAL, Batch
from batches.pages.running import is_own
from batches.queue import entries, forecast, order
from batches.queue.snapshot import Forecast
from vbs.pages.parts import Part
from vbs.pages.viewer import Viewer

FIRST = 5  # batches of those that wait, and of those that have ended
READ = 20  # places of the queue that are read for these; operations have some of them
RECENT = 50  # the page looks at the newest ended batches, and shows those that ended last


def waiting(viewer: Viewer, paused: bool) -> Part:
    """How many batches wait, and the first of them in the queue's order. There is no forecast while the queue is
    paused. A batch of another project is shown without its details."""
    first = _first()
    count, forecasts = entries.waiting_count(), {} if paused else forecast.plan()
    rows = [(batch, is_own(viewer, batch), forecasts.get(batch.pk, Forecast())) for batch in first]
    context = {"count": count, "reading": entries.reading_count(), "rows": rows, "more": count - len(rows)}
    return Part("waiting", "batches/overview/_waiting.html", context)


def _first() -> list[Batch]:
    """The first that wait, as the page of the queue has them: by place, then those without one."""
    rows = Batch.objects.waiting().select_related("project")
    ids = [turn.id for turn in order.placements()[:READ]]
    placed = {batch.pk: batch for batch in rows.filter(pk__in=ids)}
    return [*(placed[pk] for pk in ids if pk in placed), *rows.exclude(pk__in=ids)[:FIRST]][:FIRST]


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
