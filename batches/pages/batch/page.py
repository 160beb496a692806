"""The page of one batch: what its parts show, read in a fixed number of queries."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db.models import Count, Sum
from django.db.models.functions import Left
from django.http import QueryDict
from django.urls import reverse
from django.utils import timezone

from batches import cost, phase
from batches.cost import Share
from batches.export import download
from batches.export.source import gone
from batches.models import RUNNABLE, Batch, File
from batches.pages.batch import failures, measured
from batches.pages.new import problems
from batches.pages.request import table
from batches.queue import forecast, order
from batches.queue.snapshot import Forecast
from batches.run import pace
from vbs.live.pages import Page, PageGone
from vbs.pages.parts import LATER, SOON, Part, pulse
from vbs.pages.plain import brief
from vbs.pages.viewer import Viewer
from vbs.pages.words import about, duration, number

LINES = 100  # of the log
MESSAGE = 500  # characters of one of them, of which the template shows all
RETRIES = 10
METADATA = 50  # pairs
ANSWERS = 20  # requests of a page of the table
SHOWING = ("state", "q", "words", "after", "before")  # what an address may say of the table
NOTHING = Forecast()


def find(viewer: Viewer, pk: str) -> Batch:
    """Raises PageGone when the batch does not exist, was deleted, or belongs to another project."""
    rows = Batch.objects.select_related("project", "input_file", "output_file", "error_file", "retry_of")
    own = viewer.all_own(rows.filter(hidden=False).with_holding())
    batch = None if "\0" in pk else own.filter(pk=pk).first()
    if batch is None:
        raise PageGone(pk)
    return batch


def build(viewer: Viewer, query: QueryDict, pk: str) -> dict[str, Part]:
    """query: which of its requests the table shows, as `table.of` takes it."""
    batch = find(viewer, pk)
    shares, state = cost.shares(batch), phase.word(batch)
    expected = forecast.of(batch) if batch.status in RUNNABLE else NOTHING
    parts = (
        Part("title", "batches/detail/_title.html", {"title": title(batch)}),
        _head(batch, state, shares),
        _bar(batch),
        _left(batch, expected),
        _going(batch, expected),
        problems.of(batch),
        failures.of(batch),
        _files(batch),
        *_answers(batch, query),
        measured.speed(batch),
        _timeline(batch),
        measured.spent(batch, shares),
        _settings(batch, shares),
        Part("prices", "batches/detail/_prices.html", {"shares": shares}),
        _log(batch),
        pulse(_live(batch, query), LATER if batch.is_terminal else SOON),
    )
    return {part.id: part for part in parts}


PAGE = Page(build=build, topics=lambda pk: (f"batch:{pk}",))


def _live(batch: Batch, query: QueryDict) -> str:
    """The address of the pulse, which follows the same requests."""
    given = QueryDict(mutable=True)
    given.update({name: str(query[name]) for name in SHOWING if query.get(name)})
    url = reverse("batch-live", args=[batch.pk])
    return f"{url}?{given.urlencode()}" if given else url


def title(batch: Batch) -> str:
    """What the browser's tab says: `43 % · reviews`."""
    state = phase.word(batch)
    done = f"{batch.percent(0):.0f} %" if state == phase.RUNNING else state
    return f"{done} · {brief(batch.title, 80)} · vbs"


def _head(batch: Batch, state: str, shares: list[Share]) -> Part:
    gone = batch.purged_at or batch.input_file is None or batch.input_file.purged_at
    context = {
        "batch": batch,
        "state": state,
        "shares": shares,
        # Of a line it stands with the line, below.
        "reason": batch.errors[0].get("message") if batch.errors and not batch.errors[0].get("line") else "",
        "cancels": not batch.is_terminal and state != phase.CANCELLING,
        "retries": batch.is_terminal and not gone and batch.total > batch.completed,
        "left": batch.total - batch.answered,
    }
    return Part("head", "batches/detail/_head.html", context)


def _bar(batch: Batch) -> Part:
    total = batch.total or 1
    good, bad = 1000 * batch.completed // total, -(-1000 * batch.counts.failures // total)
    return Part("bar", "batches/detail/_bar.html", {"batch": batch, "good": good, "bad": bad})


def _left(batch: Batch, expected: Forecast) -> Part:
    """When it ends, or starts; after its end how long it took."""
    words = ""
    if batch.is_terminal:
        end = getattr(batch, f"{batch.status}_at")
        if end and batch.total:
            words = f"took {duration((end - (batch.in_progress_at or batch.created_at)).total_seconds())}"
    elif expected.completion_at and batch.in_progress_at:
        words = f"{_about(expected.completion_at)} left"
    elif batch.in_progress_at and expected.why:
        words = "time left not known"
    elif expected.start_at:
        words = f"starts in {_about(expected.start_at)}"
    return Part("left", "batches/detail/_left.html", {"words": words})


def _going(batch: Batch, expected: Forecast) -> Part:
    """How fast the batch is, and when it starts and ends, or why that is unknown."""
    if batch.status not in RUNNABLE:
        return Part("going", "batches/detail/_going.html", {"readings": list(_past(batch))})
    place = order.position(batch)
    readings = []
    if place == 0:
        speed = pace.of(batch)
        readings += [("Requests", _rate(speed.requests_per_second)), ("Tokens", _rate(speed.tokens_per_second))]
        readings += _share(batch)
    elif place is not None:
        readings.append(("Place in the queue", number(place)))
    context = {
        "readings": readings,
        "starts": expected.start_at if place else None,
        "ends": expected.completion_at if place else None,  # of what runs it is said beside the bar
        "why": expected.why,
    }
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
    return about((moment - timezone.now()).total_seconds())


def _answers(batch: Batch, query: QueryDict) -> tuple[Part, Part]:
    """The requests with their prompts and answers: the tabs by state, and the rows, each renewed by itself."""
    shown = table.of(batch, query, "batch", ANSWERS)
    rows = [
        Part(f"line-{row['line']}", "batches/requests/_row.html", {"batch": batch, "row": row})
        for row in shown.pop("rows")
    ]
    tabs = {"batch": batch, "choices": shown.pop("choices")}
    return Part("tabs", "batches/detail/_tabs.html", tabs), Part("answers", "batches/detail/_answers.html", shown, rows)


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
        ("Validating", batch.created_at), ("Queued", batch.validated_at), ("Running", batch.in_progress_at),
        ("Writing", batch.finalizing_at), ("Cancelling", batch.cancelling_at), ("Completed", batch.completed_at),
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
    retries = Batch.objects.filter(retry_of=batch, hidden=False).order_by("id").only("name", "status")
    pairs = list(batch.metadata.items()) if isinstance(batch.metadata, dict) else []
    context = {"batch": batch, "shares": shares, "metadata": pairs[:METADATA], "retries": list(retries[:RETRIES])}
    return Part("settings", "batches/detail/_settings.html", context)


def _log(batch: Batch) -> Part:
    rows = batch.events.order_by("-id").values_list("at", "level", Left("message", MESSAGE + 1))
    lines = list(rows[: LINES + 1])
    return Part("log", "batches/detail/_log.html", {"batch": batch, "lines": lines[:LINES], "more": len(lines) > LINES})
