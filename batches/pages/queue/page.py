"""The page of the queue, as parts: whether it is held, what runs, what waits in the order in which it is taken up."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.urls import reverse

from batches.models import Pause
from batches.queue import pauses
from batches.queue.order import Entry, entries
from batches.run import pace
from vbs.live.pages import Page
from vbs.pages.parts import Part, Values, pulse
from vbs.pages.plain import brief
from vbs.pages.viewer import Viewer
from vbs.pages.words import duration, number

MOST = 100  # that run, and that wait
TEXT = 500  # characters of a reason, and of names
SOON, LATER = 1, 5  # seconds until the page asks again: while something runs, and while nothing does


@dataclass(frozen=True, kw_only=True)
class Hold(Values):
    """Whether the queue is paused, since when, by whom and why."""

    template = "batches/queue/_hold.html"
    id: str = "hold"
    since: datetime | None
    by: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Progress(Values):
    """How far what runs is. rates: in words. left: how long it still takes, or why that is not known."""

    template = "batches/queue/_progress.html"
    percent: float
    total: int
    done: int
    failed: int
    rates: str
    left: str


@dataclass(frozen=True, kw_only=True)
class Item(Values):
    """A batch or an operation. Of another project's batch nothing is told but numbers: no address, project and model.

    pk: of a batch that this viewer may see. requests: that are left, None for an operation.
    """

    pk: str
    name: str
    address: str
    project: str
    model: str
    priority: int
    requests: int | None
    position: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Run(Item):
    """Something that runs."""

    template = "batches/queue/_run.html"
    children: Sequence[Progress] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class Expected(Values):
    """When something that waits is expected to start and to end, in words. why: neither or not both is known."""

    template = "batches/queue/_expected.html"
    starts: str
    ends: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Row(Item):
    """Something that waits."""

    template = "batches/queue/_row.html"
    children: Sequence[Expected] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class Running(Values):
    template = "batches/queue/_running.html"
    id: str = "running"
    ids: tuple[str, ...]
    children: Sequence[Run] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class Waiting(Values):
    """In order; another one when something comes, goes or changes its place. more: that are not shown. reading: batches
    that come when their lines have been read. empty: nothing runs either."""

    template = "batches/queue/_waiting.html"
    id: str = "waiting"
    ids: tuple[str, ...]
    more: int
    reading: int
    empty: bool
    children: Sequence[Row] = field(default=(), repr=False)


def build(viewer: Viewer) -> dict[str, Part | Values]:
    found = entries(MOST)
    runs = tuple(_run(entry, viewer, place) for place, entry in enumerate(found.running))
    rows = tuple(_row(entry, viewer, place) for place, entry in enumerate(found.waiting))
    return {
        "hold": _hold(pauses.current()),
        "running": Running(ids=tuple(run.id for run in runs), children=runs),
        "waiting": Waiting(
            ids=tuple(row.id for row in rows),
            more=found.more,
            reading=found.reading,
            empty=not (runs or rows),
            children=rows,
        ),
        "pulse": pulse(url=reverse("queue-live"), every=SOON if runs else LATER),
    }


PAGE = Page(build=lambda viewer, query: build(viewer), topics=lambda: ("batches", "models", "workers"))


def _hold(pause: Pause | None) -> Hold:
    if pause is None:
        return Hold(since=None, by="", reason="")
    return Hold(since=pause.began_at, by=brief(pause.asked_by), reason=brief(pause.reason, TEXT))


def _run(entry: Entry, viewer: Viewer, place: int) -> Run:
    item = _item(entry, viewer, f"run-{place}")
    batch = entry.batch
    children: tuple[Progress, ...] = ()
    if batch is not None:
        counts, speed = batch.counts, pace.of(batch)
        rates = [
            f"{number(rate)} {unit}/s"
            for rate, unit in ((speed.requests_per_second, "requests"), (speed.tokens_per_second, "tokens"))
            if rate is not None
        ]
        left = "" if entry.ends_in is None else f"{_rounded(entry.ends_in)} left"
        children = (
            Progress(
                id=f"progress-{item['id']}",
                percent=batch.percent(),
                total=batch.total,
                done=counts.answered,
                failed=counts.failures,
                rates=", ".join(rates),
                left=left or (entry.expected.why if item["pk"] else "") or "time left not known",
            ),
        )
    return Run(children=children, **item)


def _row(entry: Entry, viewer: Viewer, place: int) -> Row:
    item = _item(entry, viewer, f"place-{place}")
    shown = Expected(
        id=f"expected-{item['id']}",
        starts=_moment(entry.starts_in),
        ends=_moment(entry.ends_in),
        why=entry.expected.why if item["pk"] else "",
    )
    return Row(children=(shown,), **item)


def _item(entry: Entry, viewer: Viewer, anonymous: str) -> dict[str, Any]:
    """What a run and a row have in common."""
    common = {"priority": entry.priority, "position": entry.position, "reason": entry.reason}
    if (operation := entry.operation) is not None:
        return common | {
            "id": f"row-{operation.pk}", "pk": "", "name": entry.name, "project": "", "requests": None,
            "address": reverse("model", args=[operation.model_id]), "model": operation.model.name,
        }  # fmt: skip
    batch = entry.batch
    assert batch is not None
    if not (viewer.sees(batch.project_id) and viewer.project in (None, batch.project_id)):
        return common | {
            "id": anonymous, "pk": "", "name": "", "project": "", "requests": batch.pending, "address": "", "model": "",
        }  # fmt: skip
    return common | {
        "id": f"row-{batch.pk}", "pk": batch.pk, "name": batch.pk, "project": brief(batch.project.name),
        "requests": batch.pending, "address": f"/batches/{batch.pk}/",
        "model": brief(", ".join(batch.model_names), TEXT),
    }  # fmt: skip


def _moment(seconds: float | None) -> str:
    """So rounded that it seldom changes."""
    if seconds is None:
        return ""
    if seconds < 3600:
        return f"in {_rounded(seconds)}"
    at = datetime.fromtimestamp(datetime.now(UTC).timestamp() + seconds, UTC)
    return f"in {duration(seconds)}, at {at:%H:%M} UTC" if seconds < 86400 else f"{at:%Y-%m-%d %H:%M} UTC"


def _rounded(seconds: float) -> str:
    return "less than a minute" if seconds < 60 else duration(seconds)
