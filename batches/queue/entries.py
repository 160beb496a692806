"""The queue: what runs, and what waits, in the order in which workers will take it up, with a reason for each place."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone

from batches.models import Batch, BatchStatus
from batches.queue import forecast, order
from batches.queue.simulated_queue import Placement
from batches.queue.snapshot import Forecast
from models_registry.catalog import aliases
from models_registry.gpu import operations
from models_registry.gpu.arbiter import Reason
from models_registry.models import OPEN_OPERATIONS, Operation, OperationState

NOTHING = Forecast()
JUST_COME = "It has just come."  # since the snapshot of the queue


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
    how many are not in `waiting`. reading: batches whose lines are still being read."""

    running: tuple[Entry, ...]
    waiting: tuple[Entry, ...]
    waiting_total: int
    operations: int
    reading: int

    @property
    def more(self) -> int:
        return max(0, self.waiting_total - len(self.waiting))


def entries(most: int) -> Entries:
    """At most so many entries that run, and so many that wait, in a fixed number of queries."""
    plan, placements = forecast.plan(), order.placements()
    open_operations = Operation.objects.filter(state__in=OPEN_OPERATIONS).select_related("model").order_by("pk")
    asked = {row.pk: row for row in open_operations.defer("log", "result")[: operations.MOST_OPEN]}
    taken = list(Batch.objects.running().select_related("project")[:most])
    parts = shares(taken)
    running = [Entry(row, plan.get(row.pk, NOTHING), share=parts.get(row.pk)) for row in taken]
    running += [Entry(row) for row in asked.values() if row.state == OperationState.RUNNING]

    waiting = Batch.objects.waiting().exclude(pk__in=[row.pk for row in taken]).select_related("project")
    ids = [turn.id for turn in placements]
    first: dict[str, Batch | Operation] = {row.pk: row for row in waiting.filter(pk__in=ids[:most])}
    first |= {pk: row for pk, row in asked.items() if row.state == OperationState.QUEUED}
    found = list(_placed(placements[:most], first, plan))
    others = waiting.exclude(pk__in=ids)[: most - len(found)]
    found += [_unplaced(row, plan.get(row.pk)) for row in others]
    new = [row for pk, row in asked.items() if row.state == OperationState.QUEUED and pk not in ids]
    found += [Entry(row, NOTHING, 0, JUST_COME) for row in new[: most - len(found)]]
    queued = sum(row.state == OperationState.QUEUED for row in asked.values())
    reading = Batch.objects.filter(status=BatchStatus.VALIDATING, validated_at=None).count()
    # Counted only where there are more, so that it is as many as are listed whatever happens in between.
    total = len(found) if len(ids) <= most and len(found) < most else max(len(found), waiting.count() + queued)
    return Entries(tuple(running), tuple(found), total, queued, reading)


def shares(running: Iterable[Batch]) -> dict[str, float]:
    """By batch, the part of what its engine has in flight that is the batch's. The batches of a worker run together on
    one engine, but for those of remote models. running: all batches that run; one whose engine has nothing in flight is
    left out."""
    rows = [batch for batch in running if batch.in_flight is not None]
    if not rows:
        return {}
    lanes, whole = aliases.lanes(), Counter[object]()
    engine = {batch.pk: (batch.leased_by, lanes.get(next(iter(batch.pinned_names()), ""), "")) for batch in rows}
    for batch in rows:
        whole[engine[batch.pk]] += batch.in_flight or 0
    return {batch.pk: (batch.in_flight or 0) / whole[engine[batch.pk]] for batch in rows if whole[engine[batch.pk]]}


def _placed(
    placements: Iterable[Placement], rows: dict[str, Batch | Operation], plan: dict[str, Forecast]
) -> Iterable[Entry]:
    position = 0
    for turn in placements:
        if (row := rows.get(turn.id)) is not None:  # what has ended since is not there any more
            position += 1
            yield Entry(row, plan.get(turn.id, NOTHING), position, words(turn))


def _unplaced(batch: Batch, expected: Forecast | None) -> Entry:
    if expected is None:
        return Entry(batch, NOTHING, 0, JUST_COME)
    return Entry(batch, expected, 0, "Its model is being fetched." if expected.fetching else "It cannot run as it is.")


def words(turn: Placement) -> str:
    """The reason for a place in words, such as `Its deadline is near.`"""
    match turn.reason:
        case Reason.PRIORITY:
            return "Its priority is higher than that of what came before it."
        case Reason.WAITED:
            return "It has waited longer than VBS_MAX_WAIT_MINUTES."
        case Reason.DEADLINE:
            return "Its deadline is near."
        case Reason.LOADED:
            return "Its model is loaded by then."
    return "Order of arrival, after those of a higher priority." if turn.passed else "Order of arrival."


def _until(moment: datetime | None) -> float | None:
    return None if moment is None else max(0.0, (moment - timezone.now()).total_seconds())
