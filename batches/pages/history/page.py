"""The parts of the history: one page of the batches that the filters find."""

from collections.abc import Mapping

from django.conf import settings
from django.http import QueryDict
from django.urls import reverse
from django.utils import timezone

from batches import phase
from batches.models import Batch, BatchStatus
from batches.pages.history.filters import Filter, form, page
from batches.queue import forecast, snapshot
from vbs.live.pages import Page, PageGone
from vbs.pages.parts import LATER, SOON, Part, pulse
from vbs.pages.plain import brief
from vbs.pages.viewer import Viewer
from vbs.pages.words import duration

MOST_LABELS = 3  # of a row; the batch's page has all of them
LABEL_CHARACTERS = 40


def build(viewer: Viewer, query: QueryDict) -> dict[str, Part]:
    """Raises PageGone when the filters cannot be understood."""
    given = form(viewer, query)
    if not given.is_valid():
        raise PageGone(str(given.errors.as_data()))
    return parts(viewer, Filter(**given.cleaned_data))


def parts(viewer: Viewer, asked: Filter) -> dict[str, Part]:
    batches, newer, older = page(viewer, asked)
    expected: Mapping[str, snapshot.Forecast] = {}
    if any(batch.status == BatchStatus.IN_PROGRESS or batch.status == BatchStatus.VALIDATING for batch in batches):
        expected = forecast.plan()
    context = {
        "narrowed": asked.narrows,
        "newer": asked.query(after=batches[0].pk) if newer else "",
        "older": asked.query(before=batches[-1].pk) if older else "",
        "base_url": f"http://{settings.VBS_HOST}:{settings.VBS_PORT}/v1",
    }
    rows = [_row(batch, expected.get(batch.pk)) for batch in batches]
    place = {name: value for name in ("before", "after") if (value := getattr(asked, name))}
    moves = any(not batch.is_terminal for batch in batches)
    url = reverse("batches-live") + asked.query(**place).rstrip("?")
    return {
        "table": Part("table", "batches/history/_table.html", context, rows),
        "pulse": pulse(url, SOON if moves else LATER),
    }


PAGE = Page(build=build, topics=lambda: ("batches",))


def _row(batch: Batch, expected: snapshot.Forecast | None) -> Part:
    """good, bad: the widths of the bars, in percent."""
    share = 100 / batch.total if batch.total else 0.0
    labels = [brief(f"{name}: {value}", LABEL_CHARACTERS) for name, value in (batch.metadata or {}).items()]
    context = {
        "batch": batch,
        "state": phase.word(batch),
        "good": round(batch.completed * share, 1),
        "bad": round(batch.counts.failures * share, 1),
        "time": _time(batch, expected),
        "labels": labels[:MOST_LABELS],
        "more_labels": max(0, len(labels) - MOST_LABELS),
    }
    return Part(f"row-{batch.pk}", "batches/history/_row.html", context)


def _time(batch: Batch, expected: snapshot.Forecast | None) -> str:
    """How long the batch took, or how long it will still take."""
    if batch.is_terminal:
        end = getattr(batch, f"{batch.status}_at")
        return duration((end - (batch.in_progress_at or batch.created_at)).total_seconds()) if end else ""
    if expected and expected.completion_at:
        return f"≈ {duration(max(0.0, (expected.completion_at - timezone.now()).total_seconds()))} left"
    return ""
