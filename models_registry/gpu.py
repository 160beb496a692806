"""The arbiter: sources of GPU work register here, and the one worker of this GPU asks what is next.

Knows neither batches nor training: a source says what waits and runs what was chosen.
"""

import logging
import multiprocessing
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from django.conf import settings
from django.db import connection
from django.utils import timezone

from models_registry.engine.resident import Resident
from models_registry.models import Model, Worker, WorkerState
from vbs import outages
from vbs.broker import is_worker_of, wake
from vbs.logs import bind
from vbs.outages import DATABASE_ERRORS, insist

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5
STALE = timedelta(seconds=4 * HEARTBEAT_SECONDS)


@dataclass(frozen=True)
class Work:
    """Something that waits for the GPU.

    model: whose engine it needs. since: when it began to wait. deadline: when it has to have ended. part: which part
    of it this is, for its source to know.
    """

    source: "Source"
    id: str
    model: str
    priority: int
    since: datetime
    deadline: datetime | None = None
    part: int = 0


class Source(Protocol):
    def waiting(self, loaded: str) -> list[Work]:
        """What could run now, best first; a bounded number. `loaded` is the name of the loaded model, or empty."""

    def run(self, work: Work, gpu: "Gpu") -> None:
        """Run it, or a part of it: until it is done, something more urgent waits, or `gpu.stopping()`."""


SOURCES: list[Source] = []
RELEASES: list[Callable[[uuid.UUID], object]] = []  # how to take from a worker what it holds


def register(source: Source) -> None:
    SOURCES.append(source)


def choose(waiting: Iterable[Work], loaded: str, now: datetime, patience: timedelta) -> Work | None:
    """Highest priority first; then whoever has waited longer than `patience` or is close to a deadline; then the
    model that is already loaded; then who has waited longest."""

    def rank(work: Work) -> tuple[Any, ...]:
        near = work.deadline is not None and work.deadline - now < patience
        overdue = now - work.since > patience or near
        return (-work.priority, not overdue, work.model != loaded and not overdue, work.since, work.id)

    return min(waiting, key=rank, default=None)


class Gpu:
    """This GPU as its one worker sees it: who we are, what is loaded, and the loop that does the work."""

    def __init__(self, worker: Worker, resident: Resident) -> None:
        self.worker = worker
        self.resident = resident

    def stopping(self) -> bool:
        return bool(outages.stopping.is_set())

    @property
    def loaded(self) -> str:
        engine = self.resident.engine
        return engine.spec.name if engine else ""

    def next(self) -> Work | None:
        waiting = [work for source in SOURCES for work in source.waiting(self.loaded)]
        return choose(waiting, self.loaded, timezone.now(), timedelta(minutes=settings.VBS_MAX_WAIT_MINUTES))

    def outranked(self, work: Work) -> bool:
        """Does something with a higher priority wait?"""
        return any(other.priority > work.priority for source in SOURCES for other in source.waiting(self.loaded))

    def serve(self) -> None:
        """Run what waits, one after the other, until nothing does. Everything else is found again in the tables."""
        for release in RELEASES:  # what an error may have left in our hands
            release(self.worker.pk)
        if self.resident.adapters:
            adapters = Model.objects.filter(base__name=self.loaded)
            self.resident.keep_adapters({model.served_name for model in adapters.select_related("base")})
            self.show(WorkerState.IDLE)
        while not self.stopping() and (work := self.next()):
            work.source.run(work, self)
            self.show(WorkerState.IDLE)

    def show(self, state: WorkerState, activity: str = "") -> None:
        """What `status` and the pages say of this worker."""
        engine = self.resident.engine
        self.worker.set(
            state=state,
            activity=activity[:500],
            model_name=engine.spec.name if engine else "",
            engine_pid=engine.pid if engine else None,
            engine_url=(engine.address.socket or engine.address.url) if engine else "",
            adapters=sorted(self.resident.adapters) if engine else [],
        )


# The worker process.

GPU: Gpu | None = None


def connect() -> None:
    from django_q.signals import post_spawn

    post_spawn.connect(_begin, dispatch_uid="vbs worker")


def _begin(**signal: Any) -> None:
    """A worker process of a cluster has started: say that we live, and look at once for what was left undone."""
    global GPU
    if is_worker_of("gpu"):
        resident = Resident(
            settings.RUN_DIR / settings.VBS_WORKER_NAME, settings.VBS_ENGINE_START_SECONDS, settings.VBS_REMOTE_KEY
        )
        waited = False
        while not resident.lock():
            if not waited:
                log.warning("Another worker uses %s; waiting until it ends", resident.home)
                waited = True
            if outages.stopping.wait(0.5):
                return
        resident.recover()
        worker = insist(lambda: _enrol("gpu"))
        gpu = GPU = Gpu(worker, resident)
        insist(lambda: gpu.show(WorkerState.IDLE))
        # On the way out of this process, before its children are waited for.
        multiprocessing.util.Finalize(None, _leave, exitpriority=100)
        insist(lambda: wake("gpu"))
    elif is_worker_of("io"):
        worker = insist(lambda: _enrol("io"))
        multiprocessing.util.Finalize(None, _forget, args=(worker,), exitpriority=100)
        insist(lambda: wake("sweep"))
    else:
        return
    threading.Thread(target=_beat, args=(worker,), name="heartbeat", daemon=True).start()


def _enrol(cluster: str) -> Worker:
    """Our row. The rows of this machine's processes that have ended go, and what they held is free at once."""
    host = socket.gethostname()
    for other in Worker.objects.filter(cluster=cluster, hostname=host):
        if cluster == "gpu" and other.home != str(settings.RUN_DIR / settings.VBS_WORKER_NAME):
            continue
        if cluster == "gpu" or not _runs(other.pid):
            for release in RELEASES:
                release(other.pk)
            other.delete()
    return Worker.objects.create(
        cluster=cluster,
        hostname=host,
        pid=os.getpid(),
        home=str(settings.RUN_DIR / settings.VBS_WORKER_NAME) if cluster == "gpu" else "",
    )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _beat(worker: Worker) -> None:
    while True:
        time.sleep(HEARTBEAT_SECONDS)
        try:
            engine = GPU.resident.engine if GPU else None
            if engine and GPU and GPU.worker.state == WorkerState.IDLE and not engine.alive():
                log.warning("The idle engine has ended; it starts again with the next request")
                worker.set(model_name="", engine_pid=None, engine_url="")
            else:
                worker.set()
        except DATABASE_ERRORS:
            connection.close()


def _leave() -> None:
    if GPU:
        GPU.resident.release()
        _forget(GPU.worker)


def _forget(worker: Worker) -> None:
    try:
        connection.close()
        worker.delete()
    except DATABASE_ERRORS:
        log.info("The database has stopped before this worker")


def work() -> None:
    """The gpu cluster's task: whatever waits for this GPU."""
    if GPU is None:
        raise RuntimeError("Only a worker of the gpu cluster can do GPU work: 'manage.py worker gpu'")
    with bind(worker=str(GPU.worker)):
        insist(GPU.serve)
