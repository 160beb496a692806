"""The page of one batch: its rows as parts, in a fixed number of queries. Knows no request and no HTML."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from django.db.models.functions import Left
from django.http import QueryDict
from django.urls import reverse
from django.utils import timezone

from batches import cost
from batches.cost import Share
from batches.models import RUNNABLE, Batch, BatchStatus, File
from batches.pages.batch import measured, parts
from batches.pages.new import problems
from batches.queue import forecast
from batches.run import pace
from vbs.live.pages import Gone, Page
from vbs.logs import mask
from vbs.pages.parts import Part, Values, pulse
from vbs.pages.plain import brief, clip
from vbs.pages.viewer import Viewer
from vbs.pages.words import duration, number, size

LINES = 100  # of the log
MESSAGE = 500  # characters of one of them
RETRIES = 10
METADATA, VALUE = 50, 600  # pairs, and characters of each


def find(viewer: Viewer, pk: str) -> Batch:
    """Raises Gone when it is not there, deleted, or another project's."""
    rows = Batch.objects.select_related("project", "input_file", "output_file", "error_file", "retry_of")
    batch = None if "\0" in pk else viewer.all_own(rows.filter(hidden=False)).filter(pk=pk).first()
    if batch is None:
        raise Gone(pk)
    return batch


def build(viewer: Viewer, query: QueryDict, pk: str) -> dict[str, Part | Values]:
    batch = find(viewer, pk)
    shares = cost.shares(batch)
    found: dict[str, Part | Values] = {
        "head": _head(batch),
        "bar": _bar(batch),
        "going": _going(batch),
        "files": _files(batch),
        "timeline": _timeline(batch),
        "settings": _settings(batch, shares),
        "speed": measured.speed(batch),
        "spent": measured.spent(batch, shares),
        "prices": measured.prices(shares),
        "problems": problems.of(batch),
        "log": _log(batch),
    }
    return found | {"pulse": pulse(url=reverse("batch-live", args=[batch.pk]), every=5 if batch.is_terminal else 1)}


PAGE = Page(build=build, topics=lambda pk: (f"batch:{pk}",))


def state(batch: Batch) -> str:
    waits = batch.status == BatchStatus.VALIDATING and batch.validated_at
    return "waiting" if waits else batch.status


def _head(batch: Batch) -> parts.Head:
    gone = batch.purged_at or batch.input_file is None or batch.input_file.purged_at
    retries = batch.is_terminal and not gone and batch.total > batch.completed
    return parts.Head(
        pk=batch.pk,
        state=state(batch),
        reason=clip(mask(batch.errors[0].get("message") or ""), problems.MESSAGE).shown if batch.errors else "",
        cancels=not batch.is_terminal and batch.status != BatchStatus.CANCELLING,
        retries=retries,
        failed=batch.counts.failures if retries else 0,  # or its buttons were made anew while it runs
        left=batch.total - batch.answered if retries else 0,
    )


def _bar(batch: Batch) -> parts.Bar:
    total, counts = batch.total or 1, batch.counts
    return parts.Bar(
        ended=batch.is_terminal,
        total=batch.total,
        completed=batch.completed,
        failed=counts.failures,
        not_run=counts.not_run,
        pending=counts.pending,
        percent=f"{batch.percent():.1f}",
        good=1000 * batch.completed // total,
        bad=-(-1000 * counts.failures // total),
    )


def _going(batch: Batch) -> parts.Going:
    if batch.status not in RUNNABLE:
        return parts.Going(readings=tuple(_past(batch)), starts=None, ends=None, why="")
    expected, place = forecast.of(batch), forecast.position(batch)
    readings = []
    if place == 0:
        speed = pace.of(batch)
        readings += [("Requests", _rate(speed.requests_per_second)), ("Tokens", _rate(speed.tokens_per_second))]
    elif place is not None:
        readings.append(("Place in the queue", number(place)))
    if expected.completion_at:
        readings.append(("Time left", _about(expected.completion_at)))
    starts = expected.start_at if place else None
    if starts:
        readings.append(("Starts in", _about(starts)))
    return parts.Going(readings=tuple(readings), starts=starts, ends=expected.completion_at, why=expected.why)


def _past(batch: Batch) -> Iterator[tuple[str, str]]:
    """On the whole, once nothing more is run."""
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


def _files(batch: Batch) -> parts.Files:
    def file(name: str, words: str, lines: int, row: File | None) -> tuple[str, str, int, int | None, bool]:
        kept = row is not None and row.is_kept
        there = bool(lines) and (kept or not batch.purged_at)
        return name, words, lines if batch.is_terminal else 0, row.bytes if row and kept else None, there

    return parts.Files(
        pk=batch.pk,
        files=(
            file("output", "Output", batch.completed, batch.output_file),
            file("errors", "Errors", batch.failed, batch.error_file),
        ),
        so_far=not batch.is_terminal,
    )


def _timeline(batch: Batch) -> parts.Timeline:
    stamps = [
        ("Validating", batch.created_at), ("Waiting", batch.validated_at), ("In progress", batch.in_progress_at),
        ("Finalizing", batch.finalizing_at), ("Cancelling", batch.cancelling_at), ("Completed", batch.completed_at),
        ("Failed", batch.failed_at), ("Expired", batch.expired_at), ("Cancelled", batch.cancelled_at),
    ]  # fmt: skip
    been = sorted(((name, at) for name, at in stamps if at), key=lambda one: one[1])  # stable: those at once stay so
    steps = []
    for place, (name, at) in enumerate(been):
        last = place == len(been) - 1
        took = "" if last else duration(max(0.0, (been[place + 1][1] - at).total_seconds()))
        steps.append(parts.Step(name, at, took, current=last))
    whole = duration((been[-1][1] - batch.created_at).total_seconds()) if batch.is_terminal else ""
    return parts.Timeline(steps=tuple(steps), whole=whole)


def _settings(batch: Batch, shares: list[Share]) -> parts.Settings:
    file = batch.input_file
    name = f"{brief(file.filename, 200)} ({size(file.bytes)})" if file else "not found"
    facts = [
        ("Endpoint", batch.endpoint),
        ("Window", batch.completion_window),
        ("Priority", str(batch.priority)),
        ("Input file", name),
        ("Its id", brief(batch.input_file_id_given, 200)),
        ("Default model", brief(batch.default_model, 200)),
        ("Taken up", f"{batch.attempts} {'time' if batch.attempts == 1 else 'times'}"),
        ("Made by", brief(batch.created_by, 150) or "an API key or a command"),
    ]
    retries = Batch.objects.filter(retry_of=batch, hidden=False).order_by("id").values_list("pk", "status")
    pairs = list(batch.metadata.items()) if isinstance(batch.metadata, dict) else []
    return parts.Settings(
        project=brief(batch.project.name, 200),
        models=tuple((brief(one.asked, 200), brief(one.name, 200), one.revision, one.pk) for one in shares),
        facts=tuple((label, value) for label, value in facts if value),
        expires=batch.expires_at,
        metadata=tuple(
            (brief(mask(str(key)), VALUE), brief(mask(str(value)), VALUE)) for key, value in pairs[:METADATA]
        ),
        retry_of=batch.retry_of_id or "",
        retry_of_shown=batch.retry_of is not None and not batch.retry_of.hidden,
        retries=tuple(retries[:RETRIES]),
    )


def _log(batch: Batch) -> parts.Log:
    rows = batch.events.order_by("-id").values_list("at", "level", Left("message", MESSAGE + 1))
    found: Iterable[tuple[datetime, str, str]] = rows[: LINES + 1]
    lines = [(at, brief(level, 8), clip(mask(message), MESSAGE).shown) for at, level, message in found]
    return parts.Log(pk=batch.pk, lines=tuple(lines[:LINES]), more=len(lines) > LINES)
