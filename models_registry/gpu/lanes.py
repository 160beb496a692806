"""The lanes of remote models: each runs its work in a thread of its own, beside the local GPU and beside each other.

They belong to the eldest worker of the gpu cluster. A thread looks which remote models have work, when somebody wakes
the cluster and every few seconds, and starts their lanes; a lane without work ends, and is forgotten after a minute.
"""

import logging
import threading
import time
from dataclasses import asdict
from typing import Any

import psycopg
from django.db import connection
from django.utils import timezone

from models_registry import remote_keys
from models_registry.catalog.allowed import not_ready
from models_registry.engine.log_reasons import LoadError
from models_registry.engine.remote import servers
from models_registry.engine.remote.pool import MOST
from models_registry.engine.server import Engine, Progress
from models_registry.engine.spec import EngineKind
from models_registry.gpu.lane import Lane
from models_registry.models import NO_FAILURE, Model, Worker, WorkerState
from models_registry.rates import Meter
from models_registry.workloads import Work
from vbs.broker import Listener, wake
from vbs.database import outages
from vbs.database.outages import DATABASE_ERRORS, first_line, insist
from vbs.logs import bind

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0  # between two looks for work that nobody has said to wait, such as that of a lost worker
SHOW_SECONDS = 1.0  # between two writes of what the lanes do
KEPT_SECONDS = 60.0  # for which a lane without work is kept, with the limits of its addresses
MOST_LANES = 16  # that run at once; each has a few connections to the database
MOST_SHOWN = 100  # lanes, with those of models whose servers fail
RATE_SECONDS = 10.0  # over which requests per second are told
END_SECONDS = 20.0  # for lanes to end when the worker has to stop


class RemoteLane(Lane):
    """The lane of one remote model."""

    def __init__(self, name: str, worker: Worker) -> None:
        super().__init__(worker)
        self.name = name
        self.state, self.activity = WorkerState.IDLE, ""
        self._keys: dict[str, str] = {}  # that the engine was made with
        self.idle_since = time.monotonic()
        self._engine: Engine | None = None
        self._answered = 0  # of its pool, when its state was kept last
        self._meter = Meter(RATE_SECONDS, 0)

    @property
    def engine(self) -> Engine | None:
        return self._engine

    def load(self, model: Model, on_progress: Progress) -> Engine:
        """Look whether the model's servers are there, unless that is known. Raises LoadError, and what on_progress
        raises."""
        if why := not_ready(model):
            raise LoadError(why)
        on_progress("looking whether its server answers")
        rows = Model.objects.filter(pk=model.pk)
        try:
            engine, is_new = self._asked(model)
        except LoadError as error:
            rows.server_fails(str(error), error.public)
            raise
        if is_new:
            rows.server_answers()
            self._meter = Meter(RATE_SECONDS, 0)
            self.loaded_at = timezone.now()
        return engine

    def _asked(self, model: Model) -> tuple[Engine, bool]:
        """The engine, and whether its servers were asked now. Raises LoadError."""
        spec, engine = model.spec(), self._engine
        try:
            keys = remote_keys.of(model)
        except remote_keys.UnreadableKey as error:
            raise LoadError(str(error), public="the key of the model's server cannot be read") from None
        if engine and engine.spec == spec and keys == self._keys and not (engine.pool and engine.pool.why):
            return engine, False
        self._engine = None
        self._engine = engine = servers.remote(spec, keys, MOST)
        self._keys = keys
        return engine, True

    def unload(self, model: Model) -> bool:
        had, self._engine = self._engine is not None, None
        return had

    def serves(self, model: Model) -> bool:
        return not not_ready(model) and self._engine is not None and self._engine.spec == model.spec()

    def alone(self) -> bool:
        return True

    def show(self, state: WorkerState, activity: str = "", work: Work | None = None) -> None:
        if state == WorkerState.IDLE != self.state:
            self.idle_since = time.monotonic()
        self.state, self.activity = state, activity

    def serve(self) -> None:
        """Run the work that waits, one after the other, until there is none."""
        self.release_held()
        while not self.stopping() and self.worker.is_eldest() and (work := self.next()):
            self.run(work)
        self.show(WorkerState.IDLE)

    def keep_state(self) -> None:
        """Keep of the model whether its servers answer, as its requests show while it runs."""
        pool = self._engine.pool if self._engine else None
        if pool is None or self.state != WorkerState.RUNNING:
            return
        rows = Model.objects.filter(name=self.name)
        if pool.is_lost:
            each = "; ".join(f"{one.url}: {one.why}" for one in pool.reading())
            rows.server_fails(
                f"the server cannot be reached ({each}). Check that it runs, and that its URL is right.",
                f"the model's server cannot be reached ({pool.why})",
            )
        elif pool.answered != self._answered:
            self._answered = pool.answered
            if pool.refusal:
                rows.server_fails(pool.refusal, pool.refusal)
            else:
                rows.server_answers()

    def reading(self) -> dict[str, Any]:
        """What it does, as it is kept in the worker's row."""
        pool = self._engine.pool if self._engine else None
        addresses = [asdict(one) for one in pool.reading()] if pool else []
        (rate,) = self._meter.read(pool.answered if pool else 0)
        why = pool.why if pool and self.state == WorkerState.RUNNING else ""
        return {
            "model": self.name,
            "state": "waiting" if why else self.state.value,
            "why": why,
            "detail": "",
            "since": None,
            "activity": self.activity,
            "window": pool.size if pool else 0,
            "in_flight": sum(one["in_flight"] for one in addresses),
            "requests_per_second": round(rate, 2),
            "addresses": addresses,
        }


def _wake() -> None:
    """A batch may have requests left for the local GPU, or for another lane."""
    insist(lambda: wake("gpu"))


class Lanes:
    """The lanes of one worker, and the thread that starts them."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.soon = threading.Event()  # a look is due within a second
        self.lanes: dict[str, RemoteLane] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._again: set[str] = set()  # lanes for which somebody has looked since their last look
        self._lock = threading.Lock()
        self._shown: list[dict[str, Any]] = []
        self._failed: dict[str, Model] = {}  # by name, those whose servers failed when they were asked last
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._attend, name="lanes", daemon=True)
        self._thread.start()

    def end(self, seconds: float = END_SECONDS) -> None:
        """Wait until all threads have ended, because the worker has to stop."""
        self._over.set()
        deadline = time.monotonic() + seconds
        for thread in [self._thread, *list(self._threads.values())]:
            if thread:
                thread.join(max(0.0, deadline - time.monotonic()))

    def _attend(self) -> None:
        listener, looked, shown = Listener("gpu"), float("-inf"), 0.0
        with bind(worker=str(self.worker)):
            while not (self._over.is_set() or outages.stopping.is_set()):
                try:
                    woken = listener.wait(SHOW_SECONDS)
                    if woken or self.soon.is_set() or time.monotonic() - looked > LOOK_SECONDS:
                        self.soon.clear()
                        looked = time.monotonic()
                        self.look()
                    if time.monotonic() - shown >= SHOW_SECONDS:
                        shown = time.monotonic()
                        self.show()
                except (*DATABASE_ERRORS, psycopg.OperationalError) as error:
                    connection.close()
                    listener.close()
                    log.warning("Lanes: the database cannot be reached: %s", first_line(error))
                    outages.stopping.wait(outages.PAUSE_SECONDS)
                except Exception:  # of one look; the next one may do
                    log.exception("Lanes: an unforeseen error; they are looked after again in a moment")
                    outages.stopping.wait(outages.PAUSE_SECONDS)
        listener.close()
        connection.close()

    def look(self) -> None:
        """Start a lane for each remote model that has work; the most urgent first, if there are many."""
        rows = Model.objects.filter(kind=EngineKind.REMOTE).only("name", *NO_FAILURE)
        models = {row.name: row for row in rows}
        runs_here = bool(models) and self.worker.is_eldest()
        self._failed = {name: row for name, row in models.items() if runs_here and row.server_failed_at}
        if not runs_here:
            return
        found: list[tuple[int, float, RemoteLane]] = []
        for name in models:
            with self._lock:
                if name in self._threads:
                    self._again.add(name)
                    continue
            lane = self.lanes.get(name) or RemoteLane(name, self.worker)
            lane.ended = _wake
            if work := lane.next():
                found.append((-work.priority, work.since.timestamp(), lane))
        for _, _, lane in sorted(found, key=lambda one: one[:2]):
            with self._lock:
                if len(self._threads) >= MOST_LANES:
                    return
                thread = threading.Thread(target=self._run, args=(lane,), name=f"lane {lane.name}", daemon=True)
                self.lanes[lane.name], self._threads[lane.name] = lane, thread
            thread.start()

    def _run(self, lane: RemoteLane) -> None:
        """A lane's thread: it ends when the lane has no work left."""
        with bind(worker=str(self.worker)):
            try:
                while True:
                    with self._lock:
                        self._again.discard(lane.name)
                    insist(lane.serve)
                    with self._lock:
                        if lane.name not in self._again or lane.stopping():
                            return
            except DATABASE_ERRORS as error:
                log.warning("Lane of %s: it ends for now: %s", lane.name, first_line(error))
            except Exception:
                log.exception("Lane of %s: an unforeseen error", lane.name)
            finally:
                lane.show(WorkerState.IDLE)
                connection.close()
                with self._lock:
                    del self._threads[lane.name]

    def show(self) -> None:
        """Write what the lanes do into the worker's row, if it has changed, and forget those without work."""
        now = time.monotonic()
        for name, lane in list(self.lanes.items()):
            if name not in self._threads and now - lane.idle_since > KEPT_SECONDS and not lane.held:
                del self.lanes[name]
            else:
                lane.keep_state()
        names = [*sorted(self.lanes), *sorted(self._failed.keys() - self.lanes)][:MOST_SHOWN]
        readings = [self._reading(name) for name in names]
        if readings != self._shown:
            self.worker.set(lanes=readings)
            self._shown = readings

    def _reading(self, name: str) -> dict[str, Any]:
        """What a lane does. One that runs nothing, and whose model's server failed when it was asked last, says so."""
        lane = self.lanes.get(name) or RemoteLane(name, self.worker)
        reading, failed = lane.reading(), self._failed.get(name)
        if failed is None or failed.server_failed_at is None:
            return reading
        reading["since"] = int(failed.server_failed_at.timestamp())
        if lane.state == WorkerState.IDLE:
            reading |= {"state": "failed", "why": failed.server_failure_public, "detail": failed.server_failure}
        return reading
