"""Simulates what the workers will do with the queue, without a database or a clock.

Whenever a worker is free, the arbiter's own rule chooses among all that is left. Its engine then runs that work and all
other batches that it serves, in the arbiter's order, until work for another engine comes before them; how they share it
is in `batches.queue.sharing`. So the order is the one that will come, ageing included, except that it is not known
since when a model is loaded. Nothing new arrives, and nothing fails.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from batches.queue import remaining, sharing
from batches.queue.remaining import Rest
from batches.queue.sharing import Member, SharedEngine
from batches.queue.simulated_queue import Placement, Segment, SimulatedQueue, SimulatedWork, Times
from models_registry.gpu.arbiter import Reason, in_order
from models_registry.workloads import Work


@dataclass(frozen=True)
class SimulatedWorker:
    """A worker, or a lane of one: as of `Work`, empty for its GPU. loaded: the model whose engine it has, or empty.
    running: the ids of all that it runs at once. load_spent: seconds that it has been loading what these need."""

    loaded: str = ""
    running: tuple[str, ...] = ()
    lane: str = ""
    load_spent: float = 0.0


@dataclass(frozen=True)
class Engines:
    """loads: seconds to load each engine, or None. windows: how many requests each has in flight. most: how many
    batches run at once on one."""

    loads: Mapping[str, float | None]
    windows: Mapping[str, float]
    most: int = field(default_factory=sharing.most)


@dataclass(frozen=True)
class Schedule:
    """What the simulation gives. order: every work that waits, as workers take it up for the first time."""

    times: dict[str, Times]
    order: tuple[Placement, ...]


def simulate(
    jobs: Iterable[SimulatedWork],
    slots: Iterable[SimulatedWorker],
    engines: Engines,
    now: datetime,
    patience: timedelta,
    blocked: str = "No GPU worker is running.",
    loaded: str = "",
) -> Schedule:
    """Order and times of all work. blocked: why nothing starts when there is no worker. loaded: what the worker that
    comes then has loaded.

    Work of unknown duration runs beside other work; a worker that has nothing else left is not counted on any more.
    When no worker is left, the rest gets no times, but a reason, and the order in which one worker would take it.
    """
    queue = SimulatedQueue(jobs, now, patience)
    slots = list(slots)
    alone = sum(not slot.lane for slot in slots) == 1
    workers = [_Worker(queue, engines, slot.loaded, slot.lane, alone or bool(slot.lane)) for slot in slots]
    held = [[queue.places[one] for one in slot.running if one in queue.places] for slot in slots]
    for places in held:
        queue.hold(places)
    for worker, slot, places in zip(workers, slots, held, strict=True):
        worker.begin_with(sorted(places), slot.load_spent)
    events = [(0.0, number) for number in range(len(workers))]
    idle: list[int] = []
    reasons = {"": blocked}
    last = _Worker(queue, engines, loaded, None)
    while events:
        clock, number = heapq.heappop(events)
        worker, before = workers[number], queue.put_back
        if (following := worker.go_on(clock)) is not None:
            heapq.heappush(events, (following, number))
        elif not worker.blocked:
            idle.append(number)
        if queue.put_back != before:  # another may have what it needs now
            for number in idle:
                heapq.heappush(events, (clock, number))
            idle = []
        if worker.blocked:
            reasons[worker.lane or ""] = worker.blocked
        last = last if worker.lane else worker
    times = queue.times(reasons)
    last.take_rest()
    return Schedule(times, tuple(queue.turns.values()))


class _Worker:
    """A worker or a lane, and its engine. lane: None is all of them. alone: there is no other. clock: seconds from now.
    blocked: why nothing is known of what comes after what it runs, once it has stopped for that."""

    def __init__(
        self, queue: SimulatedQueue, engines: Engines, loaded: str, lane: str | None, alone: bool = True
    ) -> None:
        self.loaded, self.blocked, self.clock = loaded, "", 0.0
        self.lane, self._alone = lane, alone
        self._queue, self._engines = queue, engines
        self._loaded_at = queue.now
        self._engine: SharedEngine | None = None
        self._load_spent = 0.0  # of the next load, which has begun already
        self._coming: list[Member] = []  # once the engine is loaded
        self._running: dict[int, list[Segment]] = {}  # by place
        self._ranking: Iterator[tuple[Work, Reason]] = iter(())
        self._first: tuple[Work, Reason] | None = None
        self._ranked: tuple[object, ...] = ()
        self._ranked_until: datetime | None = None
        self._looked = -1

    def begin_with(self, places: list[int], load_spent: float = 0.0) -> None:
        """It has the work at these places now. What has a lower priority than work that waits for another engine makes
        way at once."""
        self._load_spent = load_spent
        parts = [part for place in places for part in self._queue.left[place]]
        if not parts:
            return
        engine = next((part.engine for part in parts if part.engine == self.loaded), parts[0].engine)
        urgent = self._queue.urgent(engine, self.lane or "")
        for place in places:
            segments = self._queue.cut(place, engine)
            if not segments or (urgent is not None and self._queue.jobs[place].priority < urgent):
                self._queue.put(place, segments)
            elif self._load(place, engine, segments) and not self.clock:
                self._queue.tell(place, 0.0)

    def go_on(self, clock: float) -> float | None:
        """Do what happens at this time. Returns when the next event is; None when nothing more can be told."""
        if clock < self.clock:  # it is loading
            return self.clock
        self.clock = clock
        if self._engine:
            self._engine.advance(clock)
            for member in self._engine.ended():
                self._end(member)
            self._make_way()
        elif self._coming:
            self._engine = SharedEngine(self._engines.windows.get(self.loaded, 1), clock)
        if self._engine is None:
            return self._begin()
        self._admit(self._engine)
        for member in self._engine.members:
            if member.started is not None:
                self._queue.tell(member.place, member.started)
        if not self._engine.members:
            self._engine = None
            return self._begin()
        following = self._engine.next_event()
        if self._queue.serves(self.loaded) and (found := self._next()) is not None:
            hungry = self._engine.hungry_at(self._others(found[0]))
            following = min((one for one in (following, hungry) if one is not None), default=None)
        if following is None:
            why = next((part.why for parts in self._running.values() for part in parts if part.why), "")
            self.blocked = f"What runs before it cannot be estimated. {why}".strip()
        return following

    def _begin(self) -> float | None:
        """Take up what the arbiter chooses. Returns when its engine is loaded."""
        if self.blocked or (chosen := self._next()) is None:
            return None
        work = chosen[0]
        segments = self._take(chosen)
        return self.clock if self._load(self._queue.places[work.id], work.model, segments) else None

    def _load(self, place: int, engine: str, segments: list[Segment]) -> bool:
        """Load the engine for this work, unless it is loaded. The clock is then at the end of that. False when it is
        not known how long that takes."""
        load, late = self._seconds_to_load(engine)
        if self._queue.jobs[place].uncounted and not late:
            load = load or 0.0
        known = load is not None
        if load is None:
            why = next((part.why for part in segments if part.why), "") or late
            why = why or f"How long {engine} takes to load has never been measured."
            self._queue.tell(place, None, None, why)
            self.blocked = f"What runs before it cannot be estimated. {why}"
        self.clock += load or 0.0
        if engine != self.loaded:
            self.loaded, self._loaded_at = engine, self._queue.moment(self.clock)
        if self._queue.jobs[place].uncounted:
            if known:
                self._queue.tell(place, self.clock, self.clock)
            self._queue.put(place)
        elif known and not self.blocked:
            self._coming.append(self._member(place, segments))
        return known

    def _seconds_to_load(self, engine: str) -> tuple[float | None, str]:
        """How long it still takes until this engine is loaded. None where that is not known, with the reason if it is
        that the load under way takes longer than loads have taken."""
        if engine == self.loaded:
            return 0.0, ""
        load, spent = self._engines.loads.get(engine), self._load_spent
        self._load_spent = 0.0
        if load is None or not spent:
            return load, ""
        if spent < load:
            return load - spent, ""
        return None, f"{engine} takes longer to load than usual ({load:.0f} s)."

    def _member(self, place: int, segments: list[Segment]) -> Member:
        self._running[place] = segments
        requests = sum(part.requests for part in segments)
        tokens = sum(part.tokens * part.requests for part in segments) / (requests or 1)
        rests = [part.rest for part in segments if part.rest]
        if len(rests) < len(segments):
            self._queue.tell(place, None, None, next(part.why for part in segments if not part.rest))
        rest = remaining.together(rests) if len(rests) == len(segments) else None
        return Member(place, self._queue.jobs[place].priority, requests, rest, tokens)

    def _admit(self, engine: SharedEngine) -> None:
        """Take up what waits for this engine, until other work comes before it.

        A batch joins when those of a higher priority have too few requests to fill the window; one that another worker
        could run only when all together have too few.
        """
        coming, self._coming = self._coming, []
        while len(engine.members) + len(coming) < self._engines.most and self._queue.serves(self.loaded):
            if (found := self._next()) is None or found[0].model != self.loaded:
                break
            place = self._queue.places[found[0].id]
            if self._queue.jobs[place].uncounted:
                break
            if not engine.is_hungry(self._others(found[0]), coming):
                break
            coming.append(self._member(place, self._take(found)))
        if coming:
            engine.add(coming)

    def _others(self, work: Work) -> float:
        """The priority above which batches have to leave room for this one."""
        return work.priority if self._alone else -math.inf

    def _end(self, member: Member) -> None:
        self._queue.tell(member.place, member.started, member.ends)
        del self._running[member.place]
        self._queue.put(member.place)

    def _make_way(self) -> None:
        """Put back what has a lower priority than work that waits for another engine."""
        if self._looked == self._queue.changes or self._engine is None:
            return
        self._looked = self._queue.changes
        if (urgent := self._queue.urgent(self.loaded, self.lane or "")) is None:
            return
        leaving = [member for member in self._engine.members if member.priority < urgent]
        self._engine.remove(leaving)
        for member in leaving:
            segments = self._running.pop(member.place)
            if member.ends is not None:
                self._queue.tell(member.place, member.started, member.ends)
                segments = []
            self._queue.put(member.place, _left(segments, member))

    def _next(self) -> tuple[Work, Reason] | None:
        """What the arbiter chooses now. Its order is asked for anew when something has changed that it depends on."""
        queue, now = self._queue, self._queue.moment(self.clock)
        state = (queue.changes, self.loaded, self._loaded_at)
        if state != self._ranked or (self._ranked_until and now > self._ranked_until):
            works = queue.waiting(self.loaded, self.lane)
            ends = [work.since + queue.patience for work in works]
            ends += [work.deadline - queue.patience for work in works if work.deadline]
            self._ranked_until = min((one for one in ends if one >= now), default=None)
            self._ranking = in_order(works, self.loaded, self._loaded_at, now, queue.patience)
            self._ranked = state
            self._first = next(self._ranking, None)
        return self._first

    def _take(self, found: tuple[Work, Reason]) -> list[Segment]:
        segments = self._queue.take(*found)
        self._first = next(self._ranking, None)
        self._ranked = (self._queue.changes, self.loaded, self._loaded_at)
        return segments

    def take_rest(self) -> None:
        """Give all that is left in any lane its turn, as if turns took no time: for the order."""
        self.lane, self._ranked = None, ()
        while found := self._next():
            self.loaded, loaded = found[0].model, self.loaded
            if self.loaded != loaded:
                self._loaded_at = self._queue.moment(self.clock)
            self._take(found)
            self._queue.put(self._queue.places[found[0].id])


def _left(segments: list[Segment], member: Member) -> list[Segment]:
    """What is left of a batch that makes way, of each of its segments the same part; what is in flight is answered."""
    found = []
    for part in segments:
        if part.rest is None or not part.rest.unsent:
            found.append(part)
        else:
            unsent = math.ceil(part.rest.unsent * member.unsent / (member.rest or part.rest).unsent - 1e-6)
            found.append(replace(part, requests=unsent, rest=Rest(unsent, part.rest.usual)))
    return found
