"""The arbiter: what the GPU does next, of all that waits, and why. Pure rules; what waits is in `workloads`."""

import enum
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from models_registry.workloads import Work
from vbs.configuration import runtime


class Reason(enum.Enum):
    """Why something is next on the GPU."""

    PRIORITY = "its priority is higher"
    WAITED = "it has waited longest"  # longer than patience lasts
    DEADLINE = "its deadline is near"
    LOADED = "its model is loaded"
    ARRIVAL = "it came first"


class _Rank(NamedTuple):
    """What comes first is chosen."""

    priority: int
    in_time: bool
    elsewhere: bool
    since: datetime
    id: str


def _ranks(
    waiting: Iterable[Work], loaded: str, loaded_at: datetime, now: datetime, patience: timedelta
) -> list[tuple[_Rank, Work]]:
    def rank(work: Work) -> _Rank:
        overdue = now - work.since > patience or is_near(work.deadline, now, patience)
        at_hand = work.model == loaded and (not overdue or work.since <= loaded_at)
        return _Rank(-work.priority, not overdue, not at_hand, work.since, work.id)

    return [(rank(work), work) for work in waiting]


def patience() -> timedelta:
    """How long something may wait before it goes before the loaded model's, and how near a deadline counts as near."""
    return timedelta(minutes=runtime.value("VBS_MAX_WAIT_MINUTES"))


def is_near(deadline: datetime | None, now: datetime, patience: timedelta) -> bool:
    """So near that it goes before those that have time."""
    return deadline is not None and deadline - now < patience


def choose(
    waiting: Iterable[Work], loaded: str, loaded_at: datetime, now: datetime, patience: timedelta
) -> Work | None:
    """Highest priority first; then whoever has waited longer than `patience` or is close to a deadline; then the
    model that is already loaded; then who has waited longest.

    Of those that have waited too long, too, the loaded model's go first, but only those that waited already when it was
    loaded: so a full queue swaps once for all of them, not for each, and nobody who comes later gets in between.
    """
    ranks = _ranks(waiting, loaded, loaded_at, now, patience)
    best = min(ranks, key=lambda one: one[0], default=None)
    return best[1] if best else None


def why(
    chosen: Work, waiting: Iterable[Work], loaded: str, loaded_at: datetime, now: datetime, patience: timedelta
) -> Reason:
    """The rule without which another of these, `chosen` among them, would be the one that is chosen."""
    ranks = _ranks(waiting, loaded, loaded_at, now, patience)
    reasons = (
        Reason.PRIORITY,
        Reason.WAITED if now - chosen.since > patience else Reason.DEADLINE,
        Reason.LOADED,
    )
    for place, reason in enumerate(reasons):
        if min(ranks, key=lambda one: one[0][:place] + one[0][place + 1 :])[1].id != chosen.id:
            return reason
    return Reason.ARRIVAL
