"""The arbiter: the rules that choose which work the GPU does next, and say why. `workloads` has what waits."""

import enum
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from models_registry.workloads import Work
from vbs.configuration import runtime


class Reason(enum.Enum):
    """Why a work is next on the GPU."""

    PRIORITY = "its priority is higher"
    WAITED = "it has waited longest"  # longer than patience lasts
    DEADLINE = "its deadline is near"
    LOADED = "its model is loaded"
    ARRIVAL = "it came first"


class _Rank(NamedTuple):
    """The key by which waiting work is sorted; the lowest is chosen."""

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
    """How long work may wait before it goes before that of the loaded model, and how near a deadline counts as near."""
    return timedelta(minutes=runtime.value("VBS_MAX_WAIT_MINUTES"))


def is_near(deadline: datetime | None, now: datetime, patience: timedelta) -> bool:
    """Is the deadline so near that the work goes before other work?"""
    return deadline is not None and deadline - now < patience


def choose(
    waiting: Iterable[Work], loaded: str, loaded_at: datetime, now: datetime, patience: timedelta
) -> Work | None:
    """Choose the work with the highest priority; then work that has waited longer than `patience` or has a near
    deadline; then work for the loaded model; then the work that has waited longest.

    Among work that has waited too long, that of the loaded model also goes first, but only what waited already when the
    model was loaded. So a full queue swaps once for all of this work, and work that comes later does not slip in.
    """
    ranks = _ranks(waiting, loaded, loaded_at, now, patience)
    best = min(ranks, key=lambda one: one[0], default=None)
    return best[1] if best else None


def why(
    chosen: Work, waiting: Iterable[Work], loaded: str, loaded_at: datetime, now: datetime, patience: timedelta
) -> Reason:
    """The rule that decided: without it, other work than `chosen` would have been chosen."""
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
