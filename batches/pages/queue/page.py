"""The parts of the queue's page: whether it is paused, what runs, and what waits in its order."""

from datetime import timedelta
from typing import Any

from django.http import QueryDict
from django.urls import reverse
from django.utils import timezone

from batches import phase
from batches.pages.share import share_words
from batches.queue import pauses
from batches.queue.entries import Entry, entries
from batches.run import pace
from models_registry.models import Worker
from models_registry.pages.lanes import lanes
from vbs.live.pages import Page
from vbs.pages.parts import LATER, SOON, Part, pulse
from vbs.pages.templatetags.words import until
from vbs.pages.viewer import Viewer
from vbs.pages.words import duration

MOST = 100  # that run, and that wait


def build(viewer: Viewer, query: QueryDict) -> dict[str, Part]:
    found = entries(MOST)
    runs = [_run(entry, viewer, place) for place, entry in enumerate(found.running)]
    rows = [_row(entry, viewer, place) for place, entry in enumerate(found.waiting)]
    waiting = {"more": found.more, "reading": found.reading, "empty": not (runs or rows)}
    return {
        "hold": Part("hold", "batches/queue/_hold.html", {"pause": pauses.current()}),
        "running": Part("running", "batches/queue/_running.html", {}, runs),
        "lanes": lanes(Worker.objects.alive().filter(cluster="gpu").exclude(lanes=[])[:MOST], viewer),
        "waiting": Part("waiting", "batches/queue/_waiting.html", waiting, rows),
        "pulse": pulse(reverse("queue-live"), SOON if runs else LATER),
    }


PAGE = Page(build=build, topics=lambda: ("batches", "models", "workers"))


def _run(entry: Entry, viewer: Viewer, place: int) -> Part:
    name, context = _item(entry, viewer, f"run-{place}")
    context["state"] = phase.word(entry.batch) if entry.batch else phase.of_operation(entry.operation)
    return Part(name, "batches/queue/_run.html", context, _progress(name, entry, context["own"]))


def _progress(name: str, entry: Entry, own: bool) -> list[Part]:
    """How far the running work is and how long it will still take, or why that is unknown. None for an operation."""
    if (batch := entry.batch) is None:
        return []
    left = f"{_rounded(entry.ends_in)} left" if entry.ends_in is not None else own and entry.expected.why
    context = {"batch": batch, "speed": pace.of(batch), "left": left or "time left not known"}
    context["share"] = share_words(entry.share)
    return [Part(f"progress-{name}", "batches/queue/_progress.html", context)]


def _row(entry: Entry, viewer: Viewer, place: int) -> Part:
    name, context = _item(entry, viewer, f"place-{place}")
    why = entry.expected.why if context["own"] and entry.batch else ""
    expected = {"starts": _moment(entry.starts_in), "ends": _moment(entry.ends_in), "why": why}
    shown = Part(f"expected-{name}", "batches/queue/_expected.html", expected)
    return Part(name, "batches/queue/_row.html", context, [shown])


def _item(entry: Entry, viewer: Viewer, anonymous: str) -> tuple[str, dict[str, Any]]:
    """The values that a running and a waiting item share. own: it is an operation, or a batch of this viewer; of
    another project's batch the page shows numbers only, and no address, project or model."""
    batch, operation = entry.batch, entry.operation
    own, models = True, operation.model.name if operation else ""
    if batch is not None:
        own = viewer.sees(batch.project_id) and viewer.project in (None, batch.project_id)
        models = ", ".join(batch.model_names)
    context = {"entry": entry, "batch": batch, "own": own, "models": models}
    return f"row-{entry.pk}" if own else anonymous, context


def _moment(seconds: float | None) -> str:
    """In how long that is, rounded so that it seldom changes."""
    if seconds is None:
        return ""
    return f"in {_rounded(seconds)}" if seconds < 3600 else until(timezone.now() + timedelta(seconds=seconds))


def _rounded(seconds: float) -> str:
    return "less than a minute" if seconds < 60 else duration(seconds)
