"""Why a batch or an operation is where it is in the queue, in words that are true of the rows that are shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from batches.models import Batch
from batches.queue.simulated_queue import Placement
from batches.queue.snapshot import Forecast
from models_registry.gpu.arbiter import Reason, is_near
from models_registry.models import Operation
from vbs.pages.words import duration

UNPLACED = "Its place is not worked out yet."  # it came after the order was, or very many are before it
PUT_BACK = "It has just been put back into the queue."
FETCHED = "Its model is being fetched."
STUCK = "It cannot run as it is."


@dataclass(frozen=True)
class Placed:
    """A row at its place. The order may be some seconds old, so the row can have another priority by now."""

    turn: Placement
    row: Batch | Operation

    @property
    def since(self) -> datetime:
        """When it came into the queue."""
        if isinstance(self.row, Batch):
            return self.row.validated_at or self.row.created_at
        return self.row.created_at


def of_places(placed: Sequence[Placed], now: datetime, patience: timedelta) -> list[str]:
    """The reason for each place. placed: in the order of the queue, from its beginning."""
    return [_of(place, placed, now, patience) for place in range(len(placed))]


def _of(place: int, placed: Sequence[Placed], now: datetime, patience: timedelta) -> str:
    """The order foresees what will hold when the turn comes. What holds already is told as it is now."""
    one = placed[place]
    row, waited = one.row, now - one.since
    if row.priority != one.turn.priority:
        return "Its priority has just been changed."
    match one.turn.reason:
        case Reason.PRIORITY:
            return "Its priority puts it before others."
        case Reason.WAITED:
            limit = f"more than {duration(patience.total_seconds())} (VBS_MAX_WAIT_MINUTES)"
            has = "has waited" if waited > patience else "will have waited"
            return f"It {has} for {limit}{'' if waited > patience else ' when its turn comes'}."
        case Reason.DEADLINE:
            is_due = isinstance(row, Batch) and is_near(row.expires_at, now, patience)
            return f"Its deadline {'is near' if is_due else 'will be near when its turn comes'}."
        case Reason.LOADED:
            return "Its model will be loaded when its turn comes."
    return _of_arrival(one, placed[:place], placed[place + 1 :])


def _of_arrival(one: Placed, before: Sequence[Placed], behind: Sequence[Placed]) -> str:
    """No single rule has put it where it is. Whoever compares it with the others must not find that untrue."""
    equal = one.turn.priority
    if any(other.since < one.since for other in behind if other.turn.priority == equal):
        return "It can start before some that came earlier."
    came_later = [other.turn.priority for other in before if other.since > one.since]
    if one.turn.passed or any(priority > equal for priority in came_later):
        return "In order of arrival, after those of a higher priority."
    if equal in came_later:
        return "In order of arrival, after those that have another reason."
    return "In order of arrival."


def unplaced(expected: Forecast | None) -> str:
    """Why something that waits has no place in the order. expected: its forecast, where there is one."""
    if expected is None:
        return UNPLACED
    if expected.fetching:
        return FETCHED
    return STUCK if expected.stuck else PUT_BACK
