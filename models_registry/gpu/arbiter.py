"""The arbiter: sources of GPU work register here, and the one worker of this GPU asks what is next.

Knows neither batches nor training: a source says what waits and runs what was chosen.
"""

import enum
import logging
import multiprocessing
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from django.conf import settings
from django.db import connection
from django.utils import timezone

from models_registry.catalog import allowed
from models_registry.engine.reasons import LoadError
from models_registry.engine.resident import Resident
from models_registry.engine.server import Engine, Progress
from models_registry.gpu import health
from models_registry.gpu.loading import Loading
from models_registry.gpu.losses import Losses
from models_registry.models import HEARTBEAT_SECONDS, Model, ModelState, Worker, WorkerState
from models_registry.speed import measure
from vbs import __version__
from vbs.broker import is_worker_of, wake
from vbs.configuration import runtime
from vbs.database import outages
from vbs.database.outages import DATABASE_ERRORS, insist
from vbs.logs import bind
from vbs.outgoing.addresses import origin

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60
HEALTH_SECONDS = 3  # between looks at a GPU that is too hot or too full


@dataclass(frozen=True)
class Work:
    """Something that waits for the GPU.

    model: whose engine it needs. since: when it began to wait. deadline: when it has to have ended. part: which part
    of it this is, for its source to know. frees: it only takes load off the GPU, so it may run on one that is too hot
    or too full. only: the worker that it is for, where not any may do it.
    """

    source: "Source"
    id: str
    model: str
    priority: int
    since: datetime
    deadline: datetime | None = None
    part: int = 0
    frees: bool = False
    only: uuid.UUID | None = None


class Source(Protocol):
    def waiting(self, loaded: str) -> list[Work]:
        """What could run now, best first; a bounded number. `loaded` is the name of the loaded model, or empty."""

    def run(self, work: Work, gpu: "Gpu") -> None:
        """Run it, or a part of it: until it is done, something more urgent waits, or `gpu.stopping()`."""


SOURCES: list[Source] = []
RELEASES: list[Callable[[uuid.UUID], object]] = []  # how to take from a worker what it holds
SWEEPS: list[Callable[[], object]] = []  # what finds, every minute, what was left undone


def register(source: Source) -> None:
    SOURCES.append(source)


class Reason(enum.Enum):
    """Why something is next on the GPU."""

    PRIORITY = "its priority is higher"
    WAITED = "it has waited longest"  # longer than patience lasts
    DEADLINE = "its deadline is near"
    LOADED = "its model is loaded"
    ARRIVAL = "it came first"


class _Rank(NamedTuple):
    """What comes first is chosen."""

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
    """How long something may wait before it goes before the loaded model's, and how near a deadline counts as near."""
    return timedelta(minutes=runtime.value("VBS_MAX_WAIT_MINUTES"))


def is_near(deadline: datetime | None, now: datetime, patience: timedelta) -> bool:
    """So near that it goes before those that have time."""
    return deadline is not None and deadline - now < patience


def choose(
    waiting: Iterable[Work], loaded: str, loaded_at: datetime, now: datetime, patience: timedelta
) -> Work | None:
    """Highest priority first; then whoever has waited longer than `patience` or is close to a deadline; then the
    model that is already loaded; then who has waited longest.

    Of those that have waited too long, too, the loaded model's go first, but only those that waited already when it was
    loaded: so a full queue swaps once for all of them, not for each, and nobody who comes later gets in between.
    """
    ranks = _ranks(waiting, loaded, loaded_at, now, patience)
    best = min(ranks, key=lambda one: one[0], default=None)
    return best[1] if best else None


def why(
    chosen: Work, waiting: Iterable[Work], loaded: str, loaded_at: datetime, now: datetime, patience: timedelta
) -> Reason:
    """The rule without which another of these, `chosen` among them, would be the one that is chosen."""
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


def not_ready(model: Model) -> str:
    """Why it, or its base, cannot be loaded, and what to do; empty when it can. Names no place: everybody is told."""
    model = model.base if model.base and model.base.state != ModelState.READY else model
    match model.state:
        case ModelState.DRAFT:
            return f"{model.name} is a draft, its files are not here: manage.py model fetch {model.name}"
        case ModelState.DOWNLOADING:
            return f"{model.name} is still being fetched or converted: manage.py model show {model.name} says how far"
        case ModelState.FAILED:
            return (
                f"{model.name} has failed: manage.py model show {model.name} says why, "
                f"manage.py model fetch {model.name} tries again"
            )
    return allowed.refusal(model)


def loaded_words(model: Model, engine: Engine) -> str:
    """E.g. `Loaded X in 31.2 s, with max-model-len 4096, for 8192 does not fit.`"""
    start = engine.started
    if engine.pid is None:
        return f"{engine.spec.name} is there, on a server that is not ours."
    said = f"{'Woke' if start.woken else 'Loaded'} {engine.spec.name} in {start.seconds:.1f} s"
    if not start.less:
        return f"{said}."
    changed = " and ".join(f"{name} {value}" for name, value in start.less.items())
    asked = {"max-model-len": (model.base or model).context_length} | dict(engine.spec.args)
    given = asked.get(next(iter(start.less))) if len(start.less) == 1 else None
    return f"{said}, with {changed}, for {given or 'more'} does not fit."


class Gpu:
    """This GPU as its one worker sees it: who we are, what is loaded, and the loop that does the work."""

    def __init__(self, worker: Worker, resident: Resident) -> None:
        self.worker = worker
        self.resident = resident
        self.loaded_at = timezone.now()
        self.losses = Losses()

    def stopping(self) -> bool:
        return bool(outages.stopping.is_set())

    @property
    def loaded(self) -> str:
        engine = self.resident.engine
        return engine.spec.name if engine else ""

    def load(self, model: Model, on_progress: Progress) -> Engine:
        """The engine that serves this model, and the adapter that it may be: at once when it is loaded.

        on_progress may raise when whoever asks wants it no more. It is loaded all the same if it is needed next, but
        what was raised is raised here, then or at once. Raises LoadError.
        """
        if why := not_ready(model):
            raise LoadError(why)
        before = self.resident.engine
        loading = Loading(self, model, on_progress)
        try:
            engine = self.resident.acquire(model.spec(), loading.on_progress, model.adapter())
        except LoadError:
            if loading.gone:
                raise loading.gone from None
            raise
        if engine is not before:
            self.loaded_at = timezone.now()
            measure.load(model, engine)
        if loading.gone:
            raise loading.gone
        return engine

    def unload(self, model: Model) -> bool:
        """Take it, or the one adapter that it is, off the GPU. False when it was not there."""
        if not model.base:
            return self.resident.unload(model.name)
        loaded = model.served_name in self.resident.adapters
        self.resident.keep_adapters(self.resident.adapters - {model.served_name})
        return loaded

    def next(self, freeing: bool = False) -> Work | None:
        """What to do now; with `freeing` only what takes load off the GPU."""
        return self._next(self.loaded, self.loaded_at, freeing)

    def _next(self, loaded: str, loaded_at: datetime, freeing: bool = False) -> Work | None:
        waiting = [work for work in self._waiting(loaded) if work.frees or not freeing]
        return choose(waiting, loaded, loaded_at, timezone.now(), patience())

    def _waiting(self, loaded: str) -> Iterator[Work]:
        mine = (None, self.worker.pk)
        return (work for source in SOURCES for work in source.waiting(loaded) if work.only in mine)

    def wants(self, engine: str) -> bool:
        """If the model of this name were loaded, would it be needed next?"""
        work = self._next(engine, timezone.now())
        return work is not None and work.model == engine and not work.frees

    def outranked(self, work: Work) -> bool:
        """Does something with a higher priority wait?"""
        return any(other.priority > work.priority for other in self._waiting(self.loaded))

    def serve(self) -> None:
        """Run what waits, one after the other, until nothing does. Everything else is found again in the tables."""
        for release in RELEASES:  # what an error may have left in our hands
            release(self.worker.pk)
        if self.losses.look(self.resident):
            self.resident.unload(self.loaded)  # what it had started may still hold memory
            self.show(WorkerState.IDLE)
        if self.resident.adapters:
            adapters = Model.objects.filter(base__name=self.loaded)
            self.resident.keep_adapters({model.served_name for model in adapters.select_related("base")})
            self.show(WorkerState.IDLE)
        why = ""
        while not self.stopping() and (work := self.next()):
            if why := health.why_wait(health.read(), loaded=bool(self.loaded), waiting=bool(why)):
                work = self.next(freeing=True)
            if work:
                work.source.run(work, self)
            self.show(WorkerState.IDLE, why)
            if not work:
                outages.stopping.wait(HEALTH_SECONDS)

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
        # What vLLM has compiled stays with the data, also when another version of this program, or container, comes.
        os.environ.setdefault("VLLM_CACHE_ROOT", str(Path(settings.VBS_DATA_DIR) / "cache" / "vllm"))
        resident = Resident(
            settings.RUN_DIR / settings.VBS_WORKER_NAME,
            settings.VBS_ENGINE_START_SECONDS,
            {origin(server): settings.VBS_REMOTE_KEY for server in settings.VBS_REMOTE_ORIGINS},
            sleep=settings.VBS_SLEEP_MODE,
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
        version=__version__,
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
    swept_at = time.monotonic()  # at the start
    while True:
        time.sleep(HEARTBEAT_SECONDS)
        try:
            if GPU and GPU.worker.state == WorkerState.IDLE and GPU.losses.look(GPU.resident):
                worker.set(model_name="", engine_pid=None, engine_url="", health=_reading())
                wake("gpu")  # to end what is left of it
            else:
                worker.set(health=_reading())
            if GPU:
                look_for_work(GPU)
            if worker.cluster == "io" and time.monotonic() - swept_at >= SWEEP_SECONDS:
                swept_at = time.monotonic()
                sweep_again(worker)
            if not outages.restarting.is_set() and worker.restart_asked():
                log.warning("Somebody wants %s to start anew: the cluster ends, and its supervisor starts it", worker)
                outages.restart()
        except DATABASE_ERRORS:
            connection.close()
        except Exception:  # a GPU that answers nonsense does not stop the heart
            log.exception("A heartbeat failed")


def look_for_work(gpu: Gpu) -> None:
    """Nobody is woken by a lease that runs out: the batch of a worker that is frozen, or whose machine is gone, goes to
    one that has nothing to do."""
    if gpu.worker.state == WorkerState.IDLE and gpu.next():
        wake("gpu")


def sweep_again(worker: Worker) -> None:
    """One of the io workers has the sweep run every minute: the eldest, so that there is one whoever dies."""
    if worker.is_eldest():
        wake("sweep")


def _reading() -> dict[str, Any]:
    """Of the GPU, which models sleep beside it, and which engines were lost."""
    if GPU is None:
        return health.read() | {"asleep": []}
    asleep = {engine.spec.name for engine in list(GPU.resident.sleepers.engines)}
    return health.read() | {"asleep": sorted(asleep), "losses": GPU.losses.reading()}


def _leave() -> None:
    if GPU:
        GPU.resident.release_all()
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
