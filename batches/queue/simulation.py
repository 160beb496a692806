"""Simulates what the arbiter will do with the queue, without a database or a clock.

Whenever a worker is free, the arbiter's own rule (`choose`) chooses among all that is left. So the order is the one
that will come, ageing included, except that it is not known since when a model is loaded. Nothing new arrives, and
nothing fails.
"""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from models_registry.gpu.arbiter import Reason, choose, why
from models_registry.workloads import Work, Workload


@dataclass(frozen=True)
class Segment:
    """A batch's requests for one model. engine: the model whose engine they need. seconds: how long they take; None
    when that is not known, and then `why` says why."""

    engine: str
    seconds: float | None
    why: str = ""


@dataclass(frozen=True)
class SimulatedWork:
    """A batch with work left, in segments. They run in this order, unless the engine of a later one is loaded.

    uncounted: an operation, whose duration is not known; it counts as long as the load of its model, where that is
    known.
    """

    id: str
    priority: int
    since: datetime
    deadline: datetime | None
    parts: tuple[Segment, ...]
    uncounted: bool = False


@dataclass(frozen=True)
class SimulatedWorker:
    """A worker. loaded: the model whose engine it has, or empty. running: the id of the work that it runs, or None."""

    loaded: str = ""
    running: str | None = None


@dataclass(frozen=True)
class Times:
    """When the first request of a work is sent, and when its last is answered; or why one of them is not known."""

    start: datetime | None = None
    end: datetime | None = None
    why: str = ""


@dataclass(frozen=True)
class Placement:
    """A work at its place in the order, and why it is there. passed: work of a higher priority that came later goes
    before it."""

    id: str
    reason: Reason
    passed: bool = False


@dataclass(frozen=True)
class Schedule:
    """What the simulation gives. order: every work that waits, as workers take it up for the first time."""

    times: dict[str, Times]
    order: tuple[Placement, ...]


def simulate(
    jobs: Iterable[SimulatedWork],
    slots: Iterable[SimulatedWorker],
    loads: Mapping[str, float | None],
    now: datetime,
    patience: timedelta,
    blocked: str = "No GPU worker is running.",
    loaded: str = "",
) -> Schedule:
    """Order and times of all work. loads: seconds to load each engine, or None. blocked: why nothing starts when there
    is no worker. loaded: what the worker that comes then has loaded.

    A worker that takes up work of unknown duration is not counted on any more. When no worker is left, the rest gets no
    times, but a reason, and the order in which one worker would take it.
    """
    queue = _Queue(jobs, patience)
    running = queue.running(slots := list(slots))
    # For each worker: when it is free, its number, its engine and since when, and the index of the work that it has
    # just run a segment of, or -1.
    free = [(now, number, slot.loaded, now, -1) for number, slot in enumerate(slots)]
    stuck = now, loaded, now
    times: dict[str, Times] = {}
    while free:
        clock, number, loaded, loaded_at, before = heapq.heappop(free)
        if before >= 0:
            queue.put(before)
        place = running.pop(number) if number in running else queue.next(loaded, loaded_at, clock)
        if place is None:
            stuck = clock, loaded, loaded_at
            continue
        job, part = queue.jobs[place], queue.take(place, loaded)
        start = times[job.id].start if job.id in times else None
        load = 0.0 if part.engine == loaded else loads.get(part.engine)
        if job.uncounted:
            load = load or 0.0
        if load is not None:
            begin = clock + timedelta(seconds=load)
            start = start or begin
        if load is None or part.seconds is None:
            reason = part.why or f"How long {part.engine} takes to load has never been measured."
            times[job.id] = Times(start, None, reason)
            blocked = f"What runs before it cannot be estimated. {reason}"
            stuck = clock, part.engine, clock
            continue
        end = begin + timedelta(seconds=part.seconds)
        times[job.id] = Times(start, end)
        since = loaded_at if part.engine == loaded else begin
        heapq.heappush(free, (end, number, part.engine, since, place if queue.left[place] else -1))
    for place, job in enumerate(queue.jobs):
        told = times.get(job.id, Times())
        if queue.left[place] and not told.why:
            reason = next((part.why for part in queue.left[place] if part.seconds is None), blocked)
            times[job.id] = Times(told.start, None, reason)
    queue.rest(*stuck)
    return Schedule(times, tuple(queue.turns.values()))


class _Queue:
    """The work in the order in which the queue is read, and what is left of each. A place is an index into it."""

    def __init__(self, jobs: Iterable[SimulatedWork], patience: timedelta) -> None:
        self.jobs = sorted(jobs, key=lambda job: (-job.priority, job.since, job.id))
        self.places = {job.id: place for place, job in enumerate(self.jobs)}
        self.left = [list(job.parts) for job in self.jobs]
        self.turns: dict[str, Placement] = {}
        self._patience = patience
        self._here = set(range(len(self.jobs)))  # the places of work that no worker has
        self._works: dict[tuple[int, str], Work] = {}
        # For the reasons: by priority, when the latest work came that has had a turn.
        self._latest: dict[int, datetime] = {}
        self._had: set[str] = set()

    def running(self, slots: list[SimulatedWorker]) -> dict[int, int]:
        """The place that each worker goes on with, by its number. It makes way at once for a higher priority."""
        found = {number: self.places[slot.running] for number, slot in enumerate(slots) if slot.running in self.places}
        waiting = [job.priority for place, job in enumerate(self.jobs) if place not in found.values()]
        kept = {
            number: place for number, place in found.items() if self.jobs[place].priority >= max(waiting, default=-999)
        }
        self._here -= set(kept.values())
        for place in found.values():  # these have had a turn
            self._latest[self.jobs[place].priority] = self.jobs[place].since
        self._had = {self.jobs[place].id for place in found.values()}
        return kept

    def next(self, loaded: str, loaded_at: datetime, clock: datetime) -> int | None:
        """The place of the work that the arbiter chooses, or None when nothing waits."""
        works = [self._work(place, loaded) for place in self._here if self.left[place]]
        chosen = choose(works, loaded, loaded_at, clock, self._patience)
        if chosen is None:
            return None
        place = self.places[chosen.id]
        if chosen.id not in self.turns and chosen.id not in self._had:
            reason = why(chosen, works, loaded, loaded_at, clock, self._patience)
            self.turns[chosen.id] = Placement(chosen.id, reason, self._passed(self.jobs[place]))
        return place

    def rest(self, clock: datetime, loaded: str, loaded_at: datetime) -> None:
        """Give all that is left its turn, as if turns took no time."""
        while (place := self.next(loaded, loaded_at, clock)) is not None:
            loaded = self.take(place, loaded).engine
            self.put(place)

    def _passed(self, job: SimulatedWork) -> bool:
        """Has work of a higher priority that came later had its turn? Records the turn of this one."""
        latest = max((since for priority, since in self._latest.items() if priority > job.priority), default=job.since)
        self._latest[job.priority] = max(self._latest.get(job.priority, job.since), job.since)
        return latest > job.since

    def _part(self, place: int, loaded: str) -> int:
        return next((index for index, part in enumerate(self.left[place]) if part.engine == loaded), 0)

    def _work(self, place: int, loaded: str) -> Work:
        job, engine = self.jobs[place], self.left[place][self._part(place, loaded)].engine
        if (place, engine) not in self._works:
            work = Work(cast(Workload, self), job.id, engine, job.priority, job.since, job.deadline)
            self._works[place, engine] = work
        return self._works[place, engine]

    def take(self, place: int, loaded: str) -> Segment:
        """Take out the segment that is run now; the work is away until it is put back."""
        self._here.discard(place)
        return self.left[place].pop(self._part(place, loaded))

    def put(self, place: int) -> None:
        self._here.add(place)
