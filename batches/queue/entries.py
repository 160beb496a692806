"""The queue: what runs, and what waits, in the order in which workers will take it up, with a reason for each place."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.utils import timezone

from batches.models import Batch, BatchStatus
from batches.queue import forecast, order, reasons
from batches.queue.reasons import Placed
from batches.queue.simulated_queue import Placement
from batches.queue.snapshot import Forecast
from models_registry.catalog import aliases
from models_registry.gpu import operations
from models_registry.gpu.arbiter import patience
from models_registry.models import OPEN_OPERATIONS, Operation, OperationState

NOTHING = Forecast()

Engine = tuple[UUID | None, str]  # its worker, and the lane of its remote model, empty on the GPU


@dataclass(frozen=True)
class Entry:
    """A batch or an operation in the queue. position: its place, from 1; 0 for one that runs, or cannot run. reason:
    why it has this place; it does not name models of other projects. share: the part, from 0 to 1, of what its worker
    has in flight that is this batch's; None where nothing is, or it does not run."""

    of: Batch | Operation
    expected: Forecast = NOTHING
    position: int = 0
    reason: str = ""
    share: float | None = None

    @property
    def pk(self) -> str:
        return self.of.pk

    @property
    def batch(self) -> Batch | None:
        return self.of if isinstance(self.of, Batch) else None

    @property
    def operation(self) -> Operation | None:
        return self.of if isinstance(self.of, Operation) else None

    @property
    def name(self) -> str:
        return self.of.pk if isinstance(self.of, Batch) else f"{self.of.kind} of {self.of.model.name}"

    @property
    def running(self) -> bool:
        return not self.position and not self.reason

    @property
    def priority(self) -> int:
        return self.of.priority

    @property
    def starts_in(self) -> float | None:
        return _until(self.expected.start_at)

    @property
    def ends_in(self) -> float | None:
        return _until(self.expected.completion_at)


@dataclass(frozen=True)
class Entries:
    """waiting_total: how many wait, also beyond those in `waiting`. operations: how many of these are no batches. more:
    how many are not in `waiting`. reading: batches whose lines are still being read. engines: where what runs does."""

    running: tuple[Entry, ...]
    waiting: tuple[Entry, ...]
    waiting_total: int
    operations: int
    reading: int
    engines: Mapping[str, Engine]

    @property
    def more(self) -> int:
        return max(0, self.waiting_total - len(self.waiting))


def entries(most: int) -> Entries:
    """At most so many entries that run, and so many that wait, in a fixed number of queries."""
    plan, placements = forecast.plan(), order.placements()
    open_operations = Operation.objects.filter(state__in=OPEN_OPERATIONS).select_related("model").order_by("pk")
    asked = {row.pk: row for row in open_operations.defer("log", "result")[: operations.MOST_OPEN]}
    queued = {pk: row for pk, row in asked.items() if row.state == OperationState.QUEUED}

    waiting = Batch.objects.waiting().select_related("project")
    ids = [turn.id for turn in placements]
    first = {row.pk: row for row in waiting.filter(pk__in=ids[:most])}
    others = list(waiting.exclude(pk__in=ids)[:most])
    taken = list(Batch.objects.running().select_related("project")[:most])  # last: what is claimed meanwhile is in both
    runs = {row.pk for row in taken}

    on = engines(taken)
    parts = shares(taken, on)
    running = [Entry(row, plan.get(row.pk, NOTHING), share=parts.get(row.pk)) for row in taken]
    running += [Entry(row) for row in asked.values() if row.state == OperationState.RUNNING]
    waits = {pk: row for pk, row in first.items() if pk not in runs} | queued
    found = list(_placed(placements[:most], waits, plan))
    unplaced: list[Batch | Operation] = [row for row in others if row.pk not in runs]
    unplaced += [row for pk, row in queued.items() if pk not in ids]
    found += [
        Entry(row, plan.get(row.pk, NOTHING), 0, reasons.unplaced(plan.get(row.pk)))
        for row in unplaced[: most - len(found)]
    ]
    # Counted only where there are more, so that it is as many as are listed whatever happens in between.
    total = len(found) if len(ids) <= most and len(found) < most else max(len(found), waiting_count() + len(queued))
    return Entries(tuple(running), tuple(found), total, len(queued), reading_count(), on)


def waiting_count() -> int:
    """How many batches wait. Every page has its number from here."""
    return Batch.objects.waiting().count()


def reading_count() -> int:
    """How many batches are being validated."""
    return Batch.objects.filter(status=BatchStatus.VALIDATING, validated_at=None).count()


def engines(running: Iterable[Batch]) -> dict[str, Engine]:
    """By batch, where it runs. The batches of a worker run together on one engine, but for those of remote models."""
    lanes = aliases.lanes()
    return {batch.pk: (batch.leased_by, lanes.get(next(iter(batch.pinned_names()), ""), "")) for batch in running}


def shares(running: Iterable[Batch], on: Mapping[str, Engine] | None = None) -> dict[str, float]:
    """By batch, the part of what its engine has in flight that is the batch's. running: all batches that run; one whose
    engine has nothing in flight is left out. on: their engines, as `engines` gives them, where they are known."""
    rows = [batch for batch in running if batch.in_flight is not None]
    if not rows:
        return {}
    engine, whole = engines(rows) if on is None else on, Counter[object]()
    for batch in rows:
        whole[engine[batch.pk]] += batch.in_flight or 0
    return {batch.pk: (batch.in_flight or 0) / whole[engine[batch.pk]] for batch in rows if whole[engine[batch.pk]]}


def _placed(
    placements: Iterable[Placement], rows: Mapping[str, Batch | Operation], plan: Mapping[str, Forecast]
) -> Iterator[Entry]:
    # What has ended since, or runs by now, is not there any more.
    placed = [Placed(turn, rows[turn.id]) for turn in placements if turn.id in rows]
    why = reasons.of_places(placed, timezone.now(), patience())
    for position, (one, reason) in enumerate(zip(placed, why, strict=True), 1):
        yield Entry(one.row, plan.get(one.turn.id, NOTHING), position, reason)


def _until(moment: datetime | None) -> float | None:
    return None if moment is None else max(0.0, (moment - timezone.now()).total_seconds())
