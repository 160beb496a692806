"""The queue, the workers and the speeds at one instant, and what the simulation makes of them.

The queue is simulated as the arbiter will take it (batches.queue.simulation). A batch lasts as long as its answers take
(batches.queue.remaining), and a change of model as long as its load was measured. Answers are assumed to be as long as
those that were measured: the bytes of a line say little about the tokens that will be written. Operations have their
places in the order, but only the load of their model counts as time. Batches that are not submitted yet do not count.
Answers with a limit say nothing about answers without one.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from django.db.models import Count
from django.utils import timezone

from batches.intake.sample import Sample
from batches.models import CANDIDATES, Batch, BatchRequest, BatchStatus, RequestState
from batches.queue import pauses, remaining
from batches.queue.remaining import Progress, Rest
from batches.queue.simulated_queue import Segment, SimulatedWork, Times
from batches.queue.simulation import Engines, Schedule, SimulatedWorker, simulate
from models_registry.catalog.allowed import not_ready
from models_registry.engine.spec import EngineKind
from models_registry.gpu import operations
from models_registry.gpu.arbiter import patience
from models_registry.models import OPEN_OPERATIONS, Alias, Model, ModelState, Operation, Worker, WorkerState
from models_registry.speed import speeds
from models_registry.speed.speeds import UNKNOWN, Answers, Speed
from vbs.configuration import runtime
from vbs.pages.words import duration
from vbs.timed_cache import Kept

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST = CANDIDATES  # batches that are read, as many as the arbiter reads, and some that may overtake them
SOON_DUE = timedelta(hours=1)  # batches whose deadline comes near within this time are read too
COUNTED = 250_000  # requests of batches with several models that are counted by model
FRESH_SECONDS = 2.0  # for which what was worked out is told again
PAUSED = "The queue is paused."
SEARCHING = (
    "Its engine has died at least twice with the same requests in flight. They run again, fewer at once each time, "
    "until the one that is the cause is found; how long that takes is not known."
)
KNOWN = 10  # answers of a batch, after which its requests are taken to have as many tokens
SEARCHED = 2  # deaths of engines that a request has seen, from which on it is not known how many more there are
NOTHING = Answers(0.0, 0.0, 0.0, 1)


@dataclass(frozen=True)
class Forecast:
    """start_at, completion_at: None when they are not known; then `why` says why. seconds: how long its requests take
    on the engine. requests: how many are left. model: the first that it names. measurements: how many the speed of its
    models rests on; the fewest, of several models. fetching: it waits until a model of it is fetched. stuck: no model
    that it needs can be loaded."""

    start_at: datetime | None = None
    completion_at: datetime | None = None
    seconds: float | None = None
    requests: int | None = None
    model: str | None = None
    measurements: int = 0
    why: str = ""
    fetching: bool = False
    stuck: bool = False


class QueueSnapshot:
    """The queue, the workers and the speeds at one instant, read in a fixed number of queries."""

    def __init__(self) -> None:
        self._now = timezone.now()
        self._models = _Models()
        workers = list(Worker.objects.alive().filter(cluster="gpu"))
        served = self._models.served_by({worker.model_name for worker in workers})
        due = self._now + patience() + SOON_DUE
        candidates = Batch.objects.candidates(served, due, MOST)
        running = list(Batch.objects.running()[:MOST])  # read last: what is claimed meanwhile is in both, not in none
        taken = {batch.pk for batch in running}
        batches = running + [batch for batch in candidates if batch.pk not in taken]
        self._full = len(batches) >= MOST
        self._paused = pauses.current() is not None
        asked = list(
            Operation.objects.filter(state__in=OPEN_OPERATIONS)
            .order_by("pk")
            .defer("log", "result")[: operations.MOST_OPEN]
        )
        self.loading = frozenset(worker.pk for worker in workers if worker.state == WorkerState.LOADING)
        self._read_workers(workers, running, asked)
        loaded = {pk: slot.loaded for slot in self._slots for pk in slot.running}
        counts, names = _counts(batches), {batch.pk: batch.pinned_names() for batch in batches}
        self._pending = Counter[str]()  # requests by engine: so many may be in flight there at once
        for pk, found in counts.items():
            for index, count in found.items():
                self._pending[self._models.engine(names[pk][index])] += count
        self._jobs: list[SimulatedWork] = []
        self.forecasts: dict[str, Forecast] = {}
        for batch in batches:
            self._add(batch, names[batch.pk], counts.get(batch.pk), loaded.get(batch.pk))
        self._jobs += filter(None, map(self._operation, asked))
        played = self._simulated(self._jobs)
        self.order = played.order
        self.positions = {turn.id: place for place, turn in enumerate(played.order, 1)}
        for pk in self.forecasts:
            if pk in played.times:
                self.forecasts[pk] = self._timed(self.forecasts[pk], played.times[pk])

    def _read_workers(self, workers: list[Worker], running: list[Batch], asked: list[Operation]) -> None:
        """Read the workers that take up work, with what they run. Of one that does not, read what it has loaded, and
        why it does not."""
        held = defaultdict[Any, list[str]](list)
        for row in (*asked, *running):
            held[row.leased_by].append(row.pk)
        # Of what runs, the remote model whose lane runs it; what has others too is taken to be on the GPU.
        self._lanes: dict[str, str] = {}
        for batch in running:
            engines = {self._models.engine(name) for name in batch.pinned_names()}
            if engines <= self._models.remote and len(engines) == 1:
                self._lanes[batch.pk] = engines.pop()
        self._slots: list[SimulatedWorker] = []
        self._blocked, self._loaded = "No GPU worker is running.", ""
        for worker in workers:
            if worker.state == WorkerState.IDLE and worker.activity:  # it says why it is idle
                self._blocked, self._loaded = f"The GPU takes nothing up now: {worker.activity}", worker.model_name
            else:
                here = tuple(pk for pk in held[worker.pk] if self._lanes.get(pk) is None)
                loads = worker.loading_since if worker.state == WorkerState.LOADING else None
                spent = max(0.0, (self._now - loads).total_seconds()) if loads else 0.0
                self._slots.append(SimulatedWorker(worker.model_name, here, load_spent=spent))
            if window := worker.health.get("window"):
                self._models.windows[worker.model_name] = window["size"]
            for lane in worker.lanes:
                if lane["window"]:
                    self._models.windows[lane["model"]] = lane["window"]
        if workers:  # one of them has the lanes
            of_lane = defaultdict[str, list[str]](list)
            for pk, lane in self._lanes.items():
                of_lane[lane].append(pk)
            self._slots += [SimulatedWorker(name, tuple(of_lane[name]), name) for name in sorted(self._models.remote)]

    def _operation(self, row: Operation) -> SimulatedWork | None:
        engine = self._models.engine_of(row.model_id)
        return SimulatedWork(row.pk, row.priority, row.created_at, None, (Segment(engine),), True) if engine else None

    def _add(self, batch: Batch, names: list[str], counts: dict[int, int] | None, loaded: str | None) -> None:
        """Add the batch's forecast, without times for now, and its work for the simulation, unless it cannot run.

        It waits while a model of it is fetched; requests for a model that cannot be loaded fail at once. loaded: what
        the worker has loaded that runs it.
        """
        blank = Forecast(requests=batch.pending, model=next(iter(batch.model_names), None))
        fetched = [self._models.hindrance(name) for name in names if self._models.fetching(name)]
        hindered = {index: why for index in counts or () if (why := self._models.hindrance(names[index]))}
        why = next(iter([*fetched, *hindered.values()]), "")
        if counts is None:
            unknown = f"Its requests for each of its models are not counted: with others' they are over {COUNTED:,}."
            engine = self._models.engine(names[0])
            parts, measured = [Segment(engine, batch.pending, why=unknown, lane=self._models.lane(engine))], 0
        else:
            runs = {index: names[index] for index in counts if index not in hindered}
            unlimited = _part_of(batch.unlimited, batch.total)
            parts = [
                self._part(name, counts[index], unlimited, batch if self._models.engine(name) == loaded else None)
                for index, name in runs.items()
            ]
            if batch.deaths >= SEARCHED:
                parts = [replace(part, rest=None, why=SEARCHING) for part in parts]
            measured = min((self._models.speed(name).measurements for name in runs.values()), default=0)
        if fetched or not parts:
            self.forecasts[batch.pk] = replace(blank, why=why, fetching=bool(fetched), stuck=not fetched)
            return
        self.forecasts[batch.pk] = replace(blank, seconds=self._seconds(parts), measurements=measured, why=why)
        self._jobs.append(_job(batch, batch.validated_at or self._now, parts))

    def _part(self, name: str, requests: int, unlimited: float, running: Batch | None, new: bool = False) -> Segment:
        """new: it is not among those that were counted."""
        engine = self._models.engine(name)
        at_once = min(self._models.windows[engine], self._pending[engine] + (requests if new else 0))
        return self._models.part(name, requests, at_once, unlimited, running)

    def _seconds(self, parts: Iterable[Segment]) -> float | None:
        """How long they take where each has its engine for itself."""
        found = [part.rest.seconds(self._models.windows[part.engine]) if part.rest else None for part in parts]
        return None if None in found else sum(filter(None, found))

    def with_one_more(self, batch: Batch, seen: Sample) -> Forecast:
        """The forecast of this batch if it were in the queue, with as many requests as the sample says."""
        name, requests = seen.model, seen.requests
        forecast = Forecast(requests=requests, model=name)
        if why := self._models.hindrance(name):
            return replace(forecast, why=why)
        others = [other for other in self._jobs if other.id != batch.pk]
        part = self._part(name, requests, _part_of(seen.unlimited, requests), None, new=True)
        job = _job(batch, timezone.now(), [part])
        seconds, measured = self._seconds([part]), self._models.speed(name).measurements
        forecast = replace(forecast, seconds=seconds, measurements=measured)
        if self._full:
            return replace(forecast, why=f"More than {MOST:,} batches are in the queue.")
        return self._timed(forecast, self._simulated([*others, job]).times[batch.pk])

    def _simulated(self, jobs: list[SimulatedWork]) -> Schedule:
        engines = Engines(self._models.loads, self._models.windows)
        needed = {part.lane for job in jobs for part in job.parts} | {""}
        slots = [slot for slot in self._slots if slot.lane in needed]
        return simulate(jobs, slots, engines, self._now, patience(), self._blocked, self._loaded)

    def _timed(self, forecast: Forecast, times: Times) -> Forecast:
        if self._paused:
            return replace(forecast, why=PAUSED)
        return replace(forecast, start_at=times.start, completion_at=times.end, why=times.why or forecast.why)


def _part_of(unlimited: int, requests: int) -> float:
    """The share of the requests without a limit: none when a setting limits all of them."""
    return 0.0 if not requests or runtime.value("VBS_DEFAULT_MAX_TOKENS") else min(1.0, unlimited / requests)


def _job(batch: Batch, since: datetime, parts: list[Segment]) -> SimulatedWork:
    return SimulatedWork(batch.pk, batch.priority, since, batch.expires_at, tuple(parts))


def _counts(batches: list[Batch]) -> dict[str, dict[int, int]]:
    """How many requests are left for each of a batch's models. Where a batch has several they have to be counted, which
    is done only for the first batches of the queue."""
    counts: dict[str, dict[int, int]] = {}
    several, room = [], COUNTED
    for batch in batches:
        if len(batch.model_names) == 1:
            counts[batch.pk] = {0: batch.pending}
        elif batch.pending <= room:
            room -= batch.pending
            several.append(batch.pk)
    if several:
        rows = BatchRequest.objects.filter(batch_id__in=several, state=RequestState.PENDING)
        found = rows.order_by("batch_id", "model_index").values_list("batch_id", "model_index")
        for pk, index, count in found.annotate(count=Count("pk")):
            counts.setdefault(pk, {})[index] = count
        for pk in several:
            counts.setdefault(pk, {0: 0})
    return counts


class _Models:
    """Every model, by each of its names, with its speed."""

    def __init__(self) -> None:
        measured = speeds.all()
        models = {model.pk: model for model in Model.objects.select_related("base")}
        aliases = Alias.objects.values_list("name", "model_id")
        self._by_name = {name: models[pk] for name, pk in aliases if pk in models}
        self._by_name |= {model.name: model for model in models.values()}
        self._engines = {pk: (model.base or model).name for pk, model in models.items()}
        self._speeds = {model.name: measured.get(pk, UNKNOWN) for pk, model in models.items()}
        self.loads = {
            model.name: 0.0 if model.kind == EngineKind.REMOTE else self._speeds[model.name].load_seconds
            for model in models.values()
        }
        self.remote = {model.name for model in models.values() if model.kind == EngineKind.REMOTE}
        self.windows: dict[str, float] = dict.fromkeys(self._engines.values(), UNKNOWN.window)
        for model in sorted(models.values(), key=lambda model: model.base is None):
            if (speed := self._speeds[model.name]).sequences:
                self.windows[self._engines[model.pk]] = speed.window

    def hindrance(self, name: str) -> str:
        """Why requests for this name cannot run now; empty when they can."""
        model = self._by_name.get(name)
        if model is None:
            shown = name if len(name) <= 100 else f"{name[:100]}…"
            return f"No model '{shown}' is registered (GET /v1/models has those that are)."
        why = not_ready(model)
        return f"{why[0].upper()}{why[1:]}." if why else ""

    def fetching(self, name: str) -> bool:
        """Are its files, or its base's files, being fetched?"""
        model = self._by_name.get(name)
        return model is not None and ModelState.DOWNLOADING in (model.state, model.base and model.base.state)

    def lane(self, engine: str) -> str:
        return engine if engine in self.remote else ""

    def engine(self, name: str) -> str:
        """The model whose engine serves this name."""
        model = self._by_name.get(name)
        return name if model is None else (model.base or model).name

    def served_by(self, loaded: set[str]) -> set[str]:
        """Every name whose model one of these engines serves."""
        return {name for name in self._by_name if self.engine(name) in loaded}

    def engine_of(self, model_id: int) -> str:
        """The same by the model's key; empty when it has been removed."""
        return self._engines.get(model_id, "")

    def speed(self, name: str) -> Speed:
        model = self._by_name.get(name)
        return UNKNOWN if model is None else self._speeds[model.name]

    def part(self, name: str, requests: int, at_once: float, unlimited: float, running: Batch | None) -> Segment:
        """So many requests for this name as a segment. at_once: how many its engine has in flight then, those of others
        included. unlimited: the share without a limit. running: the batch, when it runs this segment now."""
        model, speed, engine = self._by_name[name], self.speed(name), self.engine(name)
        lane = self.lane(engine)
        if usual := speed.usual(max(1, round(at_once)), unlimited):
            usual = remaining.crowded(usual, max(at_once, 1))
        if running and running.status == BatchStatus.IN_PROGRESS and running.in_progress_at:
            progress = _progress(running, requests)
            if remaining.is_lost(usual, progress):
                why = f"A request has been in flight for {duration(progress.oldest)}, far longer than answers take."
                return Segment(engine, requests, None, why, lane=lane)
            rest = remaining.left(usual, progress)
        else:
            rest = None if usual is None else Rest(requests, usual)
        if rest is None and requests:
            why = f"{model.name} has never been measured."
            if speed.measurements:
                why = f"How long {model.name} takes for answers without a limit has never been measured."
            return Segment(engine, requests, None, why, lane=lane)
        return Segment(engine, requests, rest or Rest(0, NOTHING), tokens=_tokens(speed, running), lane=lane)


def _tokens(speed: Speed, running: Batch | None) -> float:
    """The tokens of a request: of the batch's own, once some are answered."""
    if running and running.completed >= KNOWN:
        return (running.input_tokens + running.output_tokens) / running.completed
    return (speed.input_tokens or 0.0) + (speed.output_tokens or 0.0)


def _progress(batch: Batch, requests: int) -> Progress:
    """How far a batch is that runs with so many requests left for one of its models; of several models each is taken to
    have its part of what is known of the batch."""
    part, now = requests / batch.pending if batch.pending else 0.0, timezone.now()

    def since(moment: datetime | None) -> float:
        return max(0.0, (now - moment).total_seconds()) if moment else 0.0

    in_flight = min(requests, round(part * (batch.in_flight or 0)))
    answered, spent = round(part * (batch.completed + batch.failed)), part * batch.in_flight_seconds
    oldest, latest = since(batch.oldest_sent_at), since(batch.last_sent_at)
    return Progress(answered, requests, in_flight, spent, oldest, latest, since(batch.in_progress_at))


_kept: Kept[QueueSnapshot] = Kept(late=FRESH_SECONDS)  # working it out takes longer than a request may wait


def current() -> QueueSnapshot:
    """The snapshot of at most FRESH_SECONDS ago; while the next is worked out, the one before it."""
    return _kept.get("of the queue", FRESH_SECONDS, QueueSnapshot)


def read(of: Callable[[QueueSnapshot], T], nothing: T) -> T:
    """Read something of the snapshot; `nothing` when there is none, so that a page is shown all the same."""
    try:
        return of(current())
    except Exception:
        log.exception("Queue: its order cannot be worked out")
        return nothing


def forget() -> None:
    """Work it out anew the next time."""
    _kept.forget()
