"""The page of one batch: what its parts show, read in a fixed number of queries."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db.models import Count, Sum
from django.db.models.functions import Left
from django.http import QueryDict
from django.urls import reverse
from django.utils import timezone

from batches import cost
from batches.cost import Share
from batches.export import download
from batches.export.source import gone
from batches.models import RUNNABLE, Batch, BatchStatus, File
from batches.pages.batch import measured
from batches.pages.new import problems
from batches.queue import forecast, order
from batches.run import pace
from vbs.live.pages import Page, PageGone
from vbs.pages.parts import LATER, SOON, Part, pulse
from vbs.pages.viewer import Viewer
from vbs.pages.words import duration, number

LINES = 100  # of the log
MESSAGE = 500  # characters of one of them, of which the template shows all
RETRIES = 10
METADATA = 50  # pairs


def find(viewer: Viewer, pk: str) -> Batch:
    """Raises PageGone when the batch does not exist, was deleted, or belongs to another project."""
    rows = Batch.objects.select_related("project", "input_file", "output_file", "error_file", "retry_of")
    batch = None if "\0" in pk else viewer.all_own(rows.filter(hidden=False)).filter(pk=pk).first()
    if batch is None:
        raise PageGone(pk)
    return batch


def build(viewer: Viewer, query: QueryDict, pk: str) -> dict[str, Part]:
    batch = find(viewer, pk)
    shares = cost.shares(batch)
    parts = (
        _head(batch),
        _bar(batch),
        _going(batch),
        _files(batch),
        _timeline(batch),
        _settings(batch, shares),
        measured.speed(batch),
        measured.spent(batch, shares),
        Part("prices", "batches/detail/_prices.html", {"shares": shares}),
        problems.of(batch),
        _log(batch),
        pulse(reverse("batch-live", args=[batch.pk]), LATER if batch.is_terminal else SOON),
    )
    return {part.id: part for part in parts}


PAGE = Page(build=build, topics=lambda pk: (f"batch:{pk}",))


def _head(batch: Batch) -> Part:
    waits = batch.status == BatchStatus.VALIDATING and batch.validated_at
    state: str = "waiting" if waits else batch.status
    gone = batch.purged_at or batch.input_file is None or batch.input_file.purged_at
    context = {
        "batch": batch,
        "state": state,
        "words": state.replace("_", " "),
        "reason": batch.errors[0].get("message") if batch.errors else "",
        "cancels": not batch.is_terminal and batch.status != BatchStatus.CANCELLING,
        "retries": batch.is_terminal and not gone and batch.total > batch.completed,
        "left": batch.total - batch.answered,
    }
    return Part("head", "batches/detail/_head.html", context)


def _bar(batch: Batch) -> Part:
    total = batch.total or 1
    good, bad = 1000 * batch.completed // total, -(-1000 * batch.counts.failures // total)
    return Part("bar", "batches/detail/_bar.html", {"batch": batch, "good": good, "bad": bad})


def _going(batch: Batch) -> Part:
    """How fast the batch is, and when it starts and ends, or why that is unknown."""
    if batch.status not in RUNNABLE:
        return Part("going", "batches/detail/_going.html", {"readings": list(_past(batch))})
    expected, place = forecast.of(batch), order.position(batch)
    readings = []
    if place == 0:
        speed = pace.of(batch)
        readings += [("Requests", _rate(speed.requests_per_second)), ("Tokens", _rate(speed.tokens_per_second))]
        readings += _share(batch)
    elif place is not None:
        readings.append(("Place in the queue", number(place)))
    if expected.completion_at:
        readings.append(("Time left", _about(expected.completion_at)))
    starts = expected.start_at if place else None
    if starts:
        readings.append(("Starts in", _about(starts)))
    context = {"readings": readings, "starts": starts, "ends": expected.completion_at, "why": expected.why}
    return Part("going", "batches/detail/_going.html", context)


def _share(batch: Batch) -> Iterator[tuple[str, str]]:
    """What the batch has in flight, and with which part of the engine others run beside it."""
    if batch.in_flight is None or batch.leased_by is None:
        return
    beside = Batch.objects.running().of(batch.leased_by).exclude(pk=batch.pk)
    found = beside.aggregate(batches=Count("pk"), in_flight=Sum("in_flight"))
    whole = batch.in_flight + (found["in_flight"] or 0)
    yield "In flight", number(batch.in_flight)
    if found["batches"]:
        others = f"beside {number(found['batches'])} other{'' if found['batches'] == 1 else 's'}"
        yield "Of the engine", f"{100 * batch.in_flight / whole:.0f} %, {others}" if whole else others


def _past(batch: Batch) -> Iterator[tuple[str, str]]:
    """The batch's average speed, after its end."""
    if seconds := pace.ran_seconds(batch):
        speed = pace.of(batch)
        yield "On the engine", duration(seconds)
        yield "Requests, on average", _rate(speed.requests_per_second)
        yield "Tokens, on average", _rate(speed.tokens_per_second)


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{number(value)}/s"


def _about(moment: datetime) -> str:
    seconds = (moment - timezone.now()).total_seconds()
    return f"about {duration(seconds)}" if seconds >= 1 else "any moment"


def _files(batch: Batch) -> Part:
    """lines: 0 while the batch runs, so that the button does not change all the time. bytes: the size of the file."""

    def file(name: str, words: str, lines: int, row: File | None) -> dict[str, Any]:
        kept = row is not None and row.is_kept
        return {
            "name": name,
            "words": words,
            "lines": lines if batch.is_terminal else 0,
            "bytes": row.bytes if row and kept else None,
            "there": bool(lines) and (kept or not batch.purged_at),
        }

    files = [
        file("output", "Output", batch.completed, batch.output_file),
        file("errors", "Errors", batch.failed, batch.error_file),
    ]
    has_tables = not batch.purged_at and (batch.completed or batch.failed)
    context = {
        "batch": batch,
        "files": files,
        "formats": download.WORDS if has_tables else (),
        "joins": not gone(batch),
    }
    return Part("files", "batches/detail/_files.html", context)


def _timeline(batch: Batch) -> Part:
    """The states that the batch has been in, and how long each took; the last one has no end yet."""
    stamps = [
        ("Validating", batch.created_at), ("Waiting", batch.validated_at), ("In progress", batch.in_progress_at),
        ("Finalizing", batch.finalizing_at), ("Cancelling", batch.cancelling_at), ("Completed", batch.completed_at),
        ("Failed", batch.failed_at), ("Expired", batch.expired_at), ("Cancelled", batch.cancelled_at),
    ]  # fmt: skip
    # The sort is stable: states of the same time keep their order.
    been = sorted(((name, at) for name, at in stamps if at), key=lambda one: one[1])
    ends = [at for _, at in been[1:]] + [None]
    steps = [
        (name, at, max(0.0, (end - at).total_seconds()) if end else None)
        for (name, at), end in zip(been, ends, strict=True)
    ]
    whole = (been[-1][1] - batch.created_at).total_seconds() if batch.is_terminal else None
    return Part("timeline", "batches/detail/_timeline.html", {"steps": steps, "whole": whole})


def _settings(batch: Batch, shares: list[Share]) -> Part:
    retries = Batch.objects.filter(retry_of=batch, hidden=False).order_by("id").only("status")
    pairs = list(batch.metadata.items()) if isinstance(batch.metadata, dict) else []
    context = {"batch": batch, "shares": shares, "metadata": pairs[:METADATA], "retries": list(retries[:RETRIES])}
    return Part("settings", "batches/detail/_settings.html", context)


def _log(batch: Batch) -> Part:
    rows = batch.events.order_by("-id").values_list("at", "level", Left("message", MESSAGE + 1))
    lines = list(rows[: LINES + 1])
    return Part("log", "batches/detail/_log.html", {"batch": batch, "lines": lines[:LINES], "more": len(lines) > LINES})
