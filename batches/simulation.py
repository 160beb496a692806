"""What the arbiter will do with a queue, played through. Pure: jobs and workers in, times out; no database, no clock.

The choice is the arbiter's own (`choose`), asked about the two that it can be between: the first of the queue, and the
first that has requests for the loaded model. So ageing is as it will be, but for two things: that a later job comes
first because its deadline is near, and since when the workers have had what is loaded now. Nothing new arrives, and
nothing fails.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from models_registry.gpu import Source, Work, choose


@dataclass(frozen=True)
class Part:
    """The requests of a job for one model. engine: the model whose engine they need. seconds: how long they take, or
    None, and then `why` says why it is not known."""

    engine: str
    seconds: float | None
    why: str = ""


@dataclass(frozen=True)
class Job:
    """A batch with work left, in parts, which are run in this order unless the engine of a later one is loaded."""

    id: str
    priority: int
    since: datetime
    deadline: datetime
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Slot:
    """A worker: whose engine it has, or empty, and the id of the job that it is running, if any."""

    loaded: str = ""
    running: str | None = None


@dataclass(frozen=True)
class Times:
    """When the first request of a job is sent and when the last is answered, or why one of them is not known."""

    start: datetime | None = None
    end: datetime | None = None
    why: str = ""


def simulate(
    jobs: Iterable[Job],
    slots: Iterable[Slot],
    loads: Mapping[str, float | None],
    now: datetime,
    patience: timedelta,
    blocked: str = "No GPU worker is running.",
) -> dict[str, Times]:
    """The times of every job. loads: seconds to load each engine, or None. blocked: why nothing starts without slots.

    A worker that meets something that takes an unknown time is not counted on any more. When none is left, of the rest
    no more is known than what stands in its way.
    """
    queue = _Queue(jobs)
    running = queue.running(slots := list(slots))
    # When each worker is free: that time, its number, its engine and since when, and the place of the job that it has
    # made room in.
    free = [(now, number, slot.loaded, now, -1) for number, slot in enumerate(slots)]
    times: dict[str, Times] = {}
    while free:
        clock, number, loaded, loaded_at, before = heapq.heappop(free)
        if before >= 0:
            queue.put(before)
        place = running.pop(number) if number in running else queue.next(loaded, loaded_at, clock, patience)
        if place is None:
            continue
        job, part = queue.jobs[place], queue.take(place, loaded)
        start = times[job.id].start if job.id in times else None
        load = 0.0 if part.engine == loaded else loads.get(part.engine)
        if load is not None:
            begin = clock + timedelta(seconds=load)
            start = start or begin
        if load is None or part.seconds is None:
            why = part.why or f"How long {part.engine} takes to load has never been measured."
            times[job.id] = Times(start, None, why)
            blocked = f"What runs before it cannot be estimated. {why}"
            continue
        end = begin + timedelta(seconds=part.seconds)
        times[job.id] = Times(start, end)
        since = loaded_at if part.engine == loaded else begin
        heapq.heappush(free, (end, number, part.engine, since, place if queue.left[place] else -1))
    for place, job in enumerate(queue.jobs):
        told = times.get(job.id, Times())
        if queue.left[place] and not told.why:
            why = next((part.why for part in queue.left[place] if part.seconds is None), blocked)
            times[job.id] = Times(told.start, None, why)
    return times


class _Queue:
    """The jobs in the order in which the queue is read, and what is left of each. A place is a job's number in it."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self.jobs = sorted(jobs, key=lambda job: (-job.priority, job.since, job.id))
        self.places = {job.id: place for place, job in enumerate(self.jobs)}
        self.left = [list(job.parts) for job in self.jobs]
        # Those that wait, by heaps that may also hold some that do not any more.
        self._here = [True] * len(self.jobs)
        self._all = list(range(len(self.jobs)))
        self._needing: dict[str, list[int]] = defaultdict(list)
        for place, parts in enumerate(self.left):
            for part in parts:
                self._needing[part.engine].append(place)

    def running(self, slots: list[Slot]) -> dict[int, int]:
        """What each worker goes on with, by its number: it makes way at once for what has a higher priority."""
        found = {number: self.places[slot.running] for number, slot in enumerate(slots) if slot.running in self.places}
        waiting = [job.priority for place, job in enumerate(self.jobs) if place not in found.values()]
        kept = {
            number: place for number, place in found.items() if self.jobs[place].priority >= max(waiting, default=-999)
        }
        for place in kept.values():
            self._here[place] = False
        return kept

    def next(self, loaded: str, loaded_at: datetime, clock: datetime, patience: timedelta) -> int | None:
        """The place of the job that the arbiter chooses, or None when nothing waits."""
        first = self._first(self._all)
        if first is None:
            return None
        same = self._first(self._needing[loaded], loaded)
        works = [self._work(place, loaded) for place in {first, first if same is None else same}]
        chosen = choose(works, loaded, loaded_at, clock, patience)
        return None if chosen is None else self.places[chosen.id]

    def _first(self, heap: list[int], engine: str | None = None) -> int | None:
        while heap:
            place = heap[0]
            if self._here[place] and any(engine in (None, part.engine) for part in self.left[place]):
                return place
            heapq.heappop(heap)
        return None

    def _part(self, place: int, loaded: str) -> int:
        return next((index for index, part in enumerate(self.left[place]) if part.engine == loaded), 0)

    def _work(self, place: int, loaded: str) -> Work:
        job, part = self.jobs[place], self.left[place][self._part(place, loaded)]
        return Work(cast(Source, self), job.id, part.engine, job.priority, job.since, job.deadline)

    def take(self, place: int, loaded: str) -> Part:
        """The part of the job that is run now; the job is away until it is put back."""
        self._here[place] = False
        return self.left[place].pop(self._part(place, loaded))

    def put(self, place: int) -> None:
        self._here[place] = True
        heapq.heappush(self._all, place)
        for part in self.left[place]:
            heapq.heappush(self._needing[part.engine], place)
