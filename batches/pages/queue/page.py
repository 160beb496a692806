"""The parts of the queue's page: whether it is paused, what runs, and what waits in its order."""

from typing import Any

from django.http import QueryDict
from django.urls import reverse

from batches.pages import running
from batches.queue import pauses
from batches.queue.entries import Entry, entries
from models_registry.models import Worker
from vbs.live.pages import Page
from vbs.pages.parts import LATER, SOON, Part, pulse
from vbs.pages.viewer import Viewer

MOST = 100  # that run, and that wait


def build(viewer: Viewer, query: QueryDict) -> dict[str, Part]:
    found, workers = entries(MOST), list(Worker.objects.alive().filter(cluster="gpu")[:MOST])
    taken = [entry.batch for entry in found.running if entry.batch]
    rows = [_row(entry, viewer, place) for place, entry in enumerate(found.waiting) if entry.batch]
    asked = [
        running.operation(entry.operation, workers, entry.position, entry.reason)
        for entry in (*found.running, *found.waiting)
        if entry.operation
    ]
    count = found.waiting_total - found.operations
    waiting = {
        "count": count,
        "more": count - len(rows),
        "reading": found.reading,
        "empty": not (found.running or found.waiting),
    }
    return {
        "hold": Part("hold", "batches/queue/_hold.html", {"pause": pauses.current()}),
        "running": running.section(viewer, workers, taken, found.engines, "batches/queue/_running.html", controls=True),
        "operations": Part("operations", "batches/queue/_operations.html", {}, asked),
        "waiting": Part("waiting", "batches/queue/_waiting.html", waiting, rows),
        "pulse": pulse(reverse("queue-live"), SOON if found.running else LATER),
    }


PAGE = Page(build=build, topics=lambda: ("batches", "models", "workers"))


def _row(entry: Entry, viewer: Viewer, place: int) -> Part:
    """A batch that waits. Of one of another project the page shows numbers only, and no address, project or model."""
    batch = entry.batch
    assert batch is not None
    own = running.is_own(viewer, batch)
    name = f"row-{batch.pk}" if own else f"place-{place}"
    context: dict[str, Any] = {"entry": entry, "batch": batch, "own": own, "models": ", ".join(batch.model_names)}
    expected = {
        "starts": entry.expected.start_at,
        "ends": entry.expected.completion_at,
        "why": entry.expected.why if own else "",
    }
    shown = Part(f"expected-{name}", "batches/queue/_expected.html", expected)
    return Part(name, "batches/queue/_row.html", context, [shown])
