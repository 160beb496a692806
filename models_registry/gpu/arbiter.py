"""The arbiter: the rules that choose which work the GPU does next, and say why. `workloads` has what waits."""

import enum
from collections.abc import Iterable, Iterator
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
        at_hand = work.model == loaded and not work.restarts and (not overdue or work.since <= loaded_at)
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


def in_order(
    waiting: Iterable[Work], loaded: str, loaded_at: datetime, now: datetime, patience: timedelta
) -> Iterator[tuple[Work, Reason]]:
    """All of it as it would be chosen now, one after the other. Each comes with the rule that decided: without it,
    other work would have been chosen. What the caller has not asked for yet may still be taken out by others."""
    ranks = _ranks(waiting, loaded, loaded_at, now, patience)

    def without(rule: int) -> list[tuple[_Rank, Work]]:
        return sorted(ranks, key=lambda one: one[0][:rule] + one[0][rule + 1 :], reverse=True)

    others = [without(rule) for rule in range(3)]  # the first of each is at the end
    gone: set[str] = set()
    for _, work in sorted(ranks, key=lambda one: one[0]):
        for order in others:
            while order[-1][1].id in gone:
                order.pop()
        waited = Reason.WAITED if now - work.since > patience else Reason.DEADLINE
        reasons = zip(others, (Reason.PRIORITY, waited, Reason.LOADED), strict=True)
        yield work, next((reason for order, reason in reasons if order[-1][1].id != work.id), Reason.ARRIVAL)
        gone.add(work.id)
