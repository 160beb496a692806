"""The queue, the workers and the speeds at one instant, and what the simulation makes of them.

The queue is simulated as the arbiter will take it (batches.queue.simulation). A batch lasts as long as its answers take
(batches.queue.remaining), and a change of model as long as its load was measured. Answers are assumed to be as long as
those that were measured: the bytes of a line say little about the tokens that will be written. Operations have their
places in the order, but only the load of their model counts as time. Batches that are not submitted yet do not count.
Answers with a limit say nothing about answers without one.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from django.db.models import Count
from django.utils import timezone

from batches.intake.sample import Sample
from batches.models import CANDIDATES, Batch, BatchRequest, BatchStatus, RequestState
from batches.queue import pauses, remaining
from batches.queue.simulation import Schedule, Segment, SimulatedWork, SimulatedWorker, Times, simulate
from models_registry.catalog.allowed import not_ready
from models_registry.engine.spec import EngineKind
from models_registry.gpu import operations
from models_registry.gpu.arbiter import patience
from models_registry.models import OPEN_OPERATIONS, Alias, Model, ModelState, Operation, Worker, WorkerState
from models_registry.speed import speeds
from models_registry.speed.speeds import UNKNOWN, Answers, Speed
from vbs.configuration import runtime
from vbs.timed_cache import Kept

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST = CANDIDATES  # batches that are read, as many as the arbiter reads, and some that may overtake them
SOON_DUE = timedelta(hours=1)  # batches whose deadline comes near within this time are read too
COUNTED = 250_000  # requests of batches with several models that are counted by model
FRESH_SECONDS = 2.0  # for which what was worked out is told again
PAUSED = "The queue is paused."


@dataclass(frozen=True)
class Forecast:
    """start_at, completion_at: None when they are not known; then `why` says why. seconds: how long its requests take
    on the engine. requests: how many are left. model: the first that it names. measurements: how many the speed of its
    models rests on; the fewest, of several models. fetching: it waits until a model of it is fetched."""

    start_at: datetime | None = None
    completion_at: datetime | None = None
    seconds: float | None = None
    requests: int | None = None
    model: str | None = None
    measurements: int = 0
    why: str = ""
    fetching: bool = False


class QueueSnapshot:
    """The queue, the workers and the speeds at one instant, read in a fixed number of queries."""

    def __init__(self) -> None:
        self._now = timezone.now()
        self._models = _Models()
        running = list(Batch.objects.running()[:MOST])
        workers = list(Worker.objects.alive().filter(cluster="gpu"))
        served = self._models.served_by({worker.model_name for worker in workers})
        due = self._now + patience() + SOON_DUE
        batches = running + Batch.objects.candidates(served, due, max(MOST - len(running), 1))
        self._full = len(batches) >= MOST
        self._paused = pauses.current() is not None
        asked = list(
            Operation.objects.filter(state__in=OPEN_OPERATIONS)
            .order_by("pk")
            .defer("log", "result")[: operations.MOST_OPEN]
        )
        self._read_workers(workers, running, asked)
        slots = {slot.running: slot for slot in self._slots}
        counts = _counts(batches)
        self._jobs: list[SimulatedWork] = []
        self.forecasts: dict[str, Forecast] = {}
        for batch in batches:
            self._add(batch, batch.pinned_names(), counts.get(batch.pk), slots.get(batch.pk))
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
        held = {row.leased_by: row.pk for row in asked} | {batch.leased_by: batch.pk for batch in running}
        self._slots: list[SimulatedWorker] = []
        self._blocked, self._loaded = "No GPU worker is running.", ""
        for worker in workers:
            if worker.state == WorkerState.IDLE and worker.activity:  # it says why it is idle
                self._blocked, self._loaded = f"The GPU takes nothing up now: {worker.activity}", worker.model_name
            else:
                self._slots.append(SimulatedWorker(worker.model_name, held.get(worker.pk)))

    def _operation(self, row: Operation) -> SimulatedWork | None:
        engine = self._models.engine_of(row.model_id)
        part = Segment(engine, 0.0)
        return SimulatedWork(row.pk, row.priority, row.created_at, None, (part,), uncounted=True) if engine else None

    def _add(self, batch: Batch, names: list[str], counts: dict[int, int] | None, slot: SimulatedWorker | None) -> None:
        """Add the batch's forecast, without times for now, and its work for the simulation, unless it cannot run.

        It waits while a model of it is fetched; requests for a model that cannot be loaded fail at once.
        """
        blank = Forecast(requests=batch.pending, model=next(iter(batch.model_names), None))
        fetched = [self._models.hindrance(name) for name in names if self._models.fetching(name)]
        hindered = {index: why for index in counts or () if (why := self._models.hindrance(names[index]))}
        why = next(iter([*fetched, *hindered.values()]), "")
        if counts is None:
            unknown = f"Its requests for each of its models are not counted: with others' they are over {COUNTED:,}."
            parts, measured = [Segment(self._models.engine(names[0]), None, unknown)], 0
        else:
            runs = {index: names[index] for index in counts if index not in hindered}
            engines = {index: self._models.engine(name) for index, name in runs.items()}
            current = next((index for index in runs if slot and engines[index] == slot.loaded), None)
            unlimited = _part_of(batch.unlimited, batch.total)
            parts = [
                self._models.part(name, counts[index], unlimited, batch if index == current else None)
                for index, name in runs.items()
            ]
            measured = min((self._models.speed(name).measurements for name in runs.values()), default=0)
        if fetched or not parts:
            self.forecasts[batch.pk] = replace(blank, why=why, fetching=bool(fetched))
            return
        seconds = [part.seconds for part in parts]
        whole = None if None in seconds else sum(filter(None, seconds))
        self.forecasts[batch.pk] = replace(blank, seconds=whole, measurements=measured, why=why)
        self._jobs.append(_job(batch, batch.validated_at or self._now, parts))

    def with_one_more(self, batch: Batch, seen: Sample) -> Forecast:
        """The forecast of this batch if it were in the queue, with as many requests as the sample says."""
        name, requests = seen.model, seen.requests
        forecast = Forecast(requests=requests, model=name)
        if why := self._models.hindrance(name):
            return replace(forecast, why=why)
        part = self._models.part(name, requests, _part_of(seen.unlimited, requests), None)
        job = _job(batch, timezone.now(), [part])
        forecast = replace(forecast, seconds=part.seconds, measurements=self._models.speed(name).measurements)
        if self._full:
            return replace(forecast, why=f"More than {MOST:,} batches are in the queue.")
        others = [other for other in self._jobs if other.id != batch.pk]
        return self._timed(forecast, self._simulated([*others, job]).times[batch.pk])

    def _simulated(self, jobs: list[SimulatedWork]) -> Schedule:
        return simulate(jobs, self._slots, self._models.loads, self._now, patience(), self._blocked, self._loaded)

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

    def part(self, name: str, requests: int, unlimited: float, running: Batch | None) -> Segment:
        """So many requests for this name as a segment. unlimited: the share without a limit. running: the batch, when
        it runs this segment now."""
        model, speed = self._by_name[name], self.speed(name)
        window = speed.window
        at_once = min(window, running.total if running else requests)
        if usual := speed.usual(at_once, unlimited):
            usual = remaining.crowded(usual, max(at_once, 1))
        seconds = None if usual is None else remaining.whole(usual, window, requests)
        if running and running.status == BatchStatus.IN_PROGRESS and running.in_progress_at:
            seconds = self._left(running, usual, window, requests)
        if requests and seconds is None:
            why = f"{model.name} has never been measured."
            if speed.measurements:
                why = f"How long {model.name} takes for answers without a limit has never been measured."
            return Segment(self.engine(name), None, why)
        return Segment(self.engine(name), seconds or 0.0)

    def _left(self, batch: Batch, usual: Answers | None, window: int, requests: int) -> float | None:
        """Seconds that a running segment still takes; for a model that was never measured, by the batch's own pace."""
        live = 1 / batch.requests_per_second if batch.requests_per_second else None
        if usual is None:
            return None if live is None else requests * live
        assert batch.in_progress_at
        now = timezone.now()
        # How long the turns of a batch were together is not recorded.
        one_turn = batch.attempts == 1 and len(batch.model_names) == 1
        elapsed = max(0.0, (now - batch.in_progress_at).total_seconds()) if one_turn else None
        oldest = max(0.0, (now - batch.oldest_sent_at).total_seconds()) if batch.oldest_sent_at else 0.0
        return remaining.left(usual, window, batch.completed + batch.failed, requests, elapsed, oldest, live)


_kept: Kept[QueueSnapshot] = Kept()


def current() -> QueueSnapshot:
    """The snapshot of at most FRESH_SECONDS ago."""
    return _kept.get("of the queue", FRESH_SECONDS, QueueSnapshot)


def read(of: Callable[[QueueSnapshot], T], nothing: T) -> T:
    """Read something of the snapshot; `nothing` when there is none, so that a page is shown all the same."""
    try:
        return of(current())
    except Exception:
        log.exception("The order of the queue cannot be worked out")
        return nothing


def forget() -> None:
    """Work it out anew the next time."""
    _kept.forget()
