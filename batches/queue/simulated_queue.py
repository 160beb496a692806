"""The queue as the simulation empties it: what is left of each work, and the order in which workers take it up."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from batches.queue.remaining import Rest
from models_registry.gpu.arbiter import Reason
from models_registry.workloads import Work, Workload


@dataclass(frozen=True)
class Segment:
    """A batch's requests for one model. engine: the model whose engine they need. requests: how many have no answer.
    rest: what they take; None when that is not known, and then `why` says why. tokens: of a request, read and written;
    0 where that is not known. lane: as of `Work`: empty for a local GPU."""

    engine: str
    requests: int = 0
    rest: Rest | None = None
    why: str = ""
    tokens: float = 0.0
    lane: str = ""


@dataclass(frozen=True)
class SimulatedWork:
    """A batch with work left, in segments. Those for one engine run in one turn.

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
class Times:
    """When the first request of a work is sent, and when its last is answered; or why one of them is not known."""

    start: datetime | None = None
    end: datetime | None = None
    why: str = ""


@dataclass(frozen=True)
class Placement:
    """A work at its place in the order, and why it is there. passed: work of a higher priority that came later goes
    before it. priority: with which it has this place."""

    id: str
    reason: Reason
    passed: bool = False
    priority: int = 0


class SimulatedQueue:
    """The work in the order in which the queue is read, and what is left of each. A place is an index into it.

    here: the places of work that no worker has. changes: how often that changed. put_back: how often work came back.
    turns: what has been taken up, in its order. Times are seconds from `now`.
    """

    def __init__(self, jobs: Iterable[SimulatedWork], now: datetime, patience: timedelta) -> None:
        self.now, self.patience = now, patience
        self.jobs = sorted(jobs, key=lambda job: (-job.priority, job.since, job.id))
        self.places = {job.id: place for place, job in enumerate(self.jobs)}
        self.left = [list(job.parts) for job in self.jobs]
        self.here = set(range(len(self.jobs)))
        self.changes = self.put_back = 0
        self.turns: dict[str, Placement] = {}
        self._works: dict[tuple[int, str], Work] = {}
        self._times: dict[int, tuple[float | None, float | None, str]] = {}
        # For the reasons: by priority, when the latest work came that has had a turn.
        self._latest: dict[int, datetime] = {}
        self._had: set[int] = set()

    def moment(self, seconds: float) -> datetime:
        return self.now + timedelta(seconds=seconds)

    def hold(self, places: Iterable[int]) -> None:
        """A worker has these already; they have had a turn."""
        for place in places:
            self.here.discard(place)
            self._latest[self.jobs[place].priority] = self.jobs[place].since
            self._had.add(place)

    def waiting(self, loaded: str, lane: str | None) -> list[Work]:
        """What no worker has, in this lane or in all, with the engine that each needs next: the loaded one if a segment
        of it is left."""
        found = ((place, self._parts(place, lane)) for place in self.here)
        return [self._work(place, parts, loaded) for place, parts in found if parts]

    def _parts(self, place: int, lane: str | None) -> list[Segment]:
        parts = self.left[place]
        return parts if lane is None else [part for part in parts if part.lane == lane]

    def _work(self, place: int, parts: list[Segment], loaded: str) -> Work:
        engine = parts[0].engine
        if len(parts) > 1 and any(part.engine == loaded for part in parts):
            engine = loaded
        if (place, engine) not in self._works:
            job = self.jobs[place]
            work = Work(cast(Workload, self), job.id, engine, job.priority, job.since, job.deadline)
            self._works[place, engine] = work
        return self._works[place, engine]

    def take(self, work: Work, reason: Reason) -> list[Segment]:
        """Take out the segments that the engine serves; the work is away until it is put back."""
        place = self.places[work.id]
        self.here.discard(place)
        self.changes += 1
        if work.id not in self.turns and place not in self._had:
            self.turns[work.id] = Placement(work.id, reason, self._passed(self.jobs[place]), work.priority)
        return self.cut(place, work.model)

    def cut(self, place: int, engine: str) -> list[Segment]:
        """Take out the segments that this engine serves, of a work that is away."""
        parts = self.left[place]
        self.left[place] = [part for part in parts if part.engine != engine]
        return [part for part in parts if part.engine == engine]

    def put(self, place: int, parts: Iterable[Segment] = ()) -> None:
        """Put the work back, with these segments that have not ended."""
        self.left[place] = [*parts, *self.left[place]]
        if self.left[place]:
            self.here.add(place)
            self.changes += 1
            self.put_back += 1

    def urgent(self, loaded: str, lane: str) -> int | None:
        """The highest priority of the work that waits in this lane for other engines than this one, and of
        operations."""
        found = ((place, self._parts(place, lane)) for place in self.here)
        return max(
            (
                self.jobs[place].priority
                for place, parts in found
                if parts and (self.jobs[place].uncounted or all(part.engine != loaded for part in parts))
            ),
            default=None,
        )

    def serves(self, engine: str) -> bool:
        """Does anything wait that this engine serves?"""
        return any(part.engine == engine for place in self.here for part in self.left[place])

    def _passed(self, job: SimulatedWork) -> bool:
        """Has work of a higher priority that came later had its turn? Records the turn of this one."""
        latest = max((since for priority, since in self._latest.items() if priority > job.priority), default=job.since)
        self._latest[job.priority] = max(self._latest.get(job.priority, job.since), job.since)
        return latest > job.since

    def tell(self, place: int, start: float | None, end: float | None = None, why: str = "") -> None:
        """What is known of a work: the first start, the last end, the first reason."""
        first, last, reason = self._times.get(place, (None, None, ""))
        last = end if last is None or end is None else max(last, end)
        self._times[place] = (start if first is None else first, last, reason or why)

    def times(self, blocked: Mapping[str, str]) -> dict[str, Times]:
        """What was told of each. blocked: why nothing is known of the others, by their lane."""
        found = {}
        for place, job in enumerate(self.jobs):
            start, end, why = self._times.get(place, (None, None, ""))
            if not why and (end is None or self.left[place]):
                parts = self.left[place] or job.parts
                why = next((part.why for part in self.left[place] if part.why), blocked.get(parts[0].lane, blocked[""]))
            ends = None if why or end is None else self.moment(end)
            found[job.id] = Times(None if start is None else self.moment(start), ends, why)
        return found
