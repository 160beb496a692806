"""A worker's process: it sends heartbeats, frees what its predecessor held, looks for work that was left undone, and
ends."""

import logging
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models.functions import Now

from models_registry import workloads
from models_registry.engine.resident import Resident
from models_registry.gpu import health
from models_registry.gpu.lanes import Lanes
from models_registry.gpu.loop import Gpu
from models_registry.models import HEARTBEAT_SECONDS, Worker, WorkerState
from vbs import __version__
from vbs.broker import is_worker_of, wake
from vbs.database import outages
from vbs.database.outages import DATABASE_ERRORS, insist
from vbs.logs import bind
from vbs.places import PROGRAM
from vbs.run import processes

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60
HEED_SECONDS = 1  # time for a worker to follow a wake-up
FORGOTTEN = timedelta(hours=1)

GPU: Gpu | None = None
AT_START: list[Callable[[Path], None]] = []  # called in a GPU worker with the folder of its engine
LANES: Lanes | None = None


def connect() -> None:
    from django_q.signals import post_spawn

    post_spawn.connect(_begin, dispatch_uid="vbs worker")


def _begin(**signal: Any) -> None:
    """Runs when a cluster's worker process starts: enrols the worker, and looks for work that was left undone."""
    global GPU, LANES
    if is_worker_of("gpu"):
        # vLLM's compiled code stays in the data folder, so that the next version or container can use it.
        os.environ.setdefault("VLLM_CACHE_ROOT", str(Path(settings.VBS_DATA_DIR) / "cache" / "vllm"))
        resident = Resident(
            settings.RUN_DIR / settings.VBS_WORKER_NAME,
            settings.VBS_ENGINE_START_SECONDS,
            sleep=settings.VBS_SLEEP_MODE,
        )
        waited = False
        while not resident.lock():
            if not waited:
                log.warning("Worker: another one uses %s; waiting until that one ends", resident.home)
                waited = True
            if outages.stopping.wait(0.5):
                return
        resident.recover()
        worker = insist(lambda: _enrol("gpu"))
        for step in AT_START:
            step(resident.home)
        gpu = GPU = Gpu(worker, resident)
        insist(lambda: gpu.show(WorkerState.IDLE))
        LANES = Lanes(worker)
        gpu.ended = LANES.soon.set
        LANES.start()
        # When this process ends, before it waits for its children.
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
    """Write our row. Deletes the rows of ended processes on this machine, and frees what they held."""
    host = socket.gethostname()
    for other in Worker.objects.filter(cluster=cluster, hostname=host):
        if cluster == "gpu" and other.home != str(settings.RUN_DIR / settings.VBS_WORKER_NAME):
            continue
        if cluster == "gpu" or not processes.alive(other.pid):
            workloads.release(other.pk)
            other.delete()
    return Worker.objects.create(
        cluster=cluster,
        hostname=host,
        pid=os.getpid(),
        version=__version__,
        home=str(settings.RUN_DIR / settings.VBS_WORKER_NAME) if cluster == "gpu" else "",
        url=settings.VBS_WORKER_URL if cluster == "gpu" else "",
    )


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
                log.warning(
                    "Worker %s: a restart was asked for; the cluster ends, and its supervisor starts it again", worker
                )
                outages.restart()
        except DATABASE_ERRORS:
            connection.close()
        except Exception:  # an error of the GPU's driver does not stop the heartbeats
            log.exception("Worker: a heartbeat failed; the next one follows in a few seconds")


def look_for_work(gpu: Gpu) -> None:
    """A lease that runs out wakes nobody. So an idle worker looks for the batches of frozen workers and lost machines.

    A cluster whose worker is frozen takes two wake-ups more (one waits in its queue, and one for a place there), to
    which nobody answers. So this asks up to three times.
    """
    for _ in range(3):
        if gpu.worker.state != WorkerState.IDLE or not gpu.next():
            return
        wake("gpu")
        outages.stopping.wait(HEED_SECONDS)


def sweep_again(worker: Worker) -> None:
    """The io worker that has lived longest starts the sweep every minute. When it dies, the next one does."""
    if worker.is_eldest():
        wake("sweep")


def forget_the_dead() -> None:
    """Deletes the rows of workers without a heartbeat for a long time."""
    Worker.objects.filter(heartbeat_at__lt=Now() - FORGOTTEN).delete()


def _reading() -> dict[str, Any]:
    """The state of the GPU, the models that sleep beside it, and the engines that were lost."""
    if GPU is None:
        return health.read() | {"asleep": []}
    asleep = {engine.spec.name for engine in list(GPU.resident.sleepers.engines)}
    window = GPU.window  # the run may end meanwhile
    more = {"losses": GPU.losses.reading(), "window": window.reading() if window else None}
    return health.read() | {"asleep": sorted(asleep)} | more


def _leave() -> None:
    if LANES:
        LANES.end()
    if GPU:
        GPU.resident.release_all()
        _forget(GPU.worker)


def _forget(worker: Worker) -> None:
    try:
        connection.close()
        worker.delete()
    except DATABASE_ERRORS:
        log.info("Worker: the database has stopped before it")


def work() -> None:
    """The gpu cluster's task: does whatever waits for this GPU."""
    if GPU is None:
        raise RuntimeError(f"Only a worker of the gpu cluster can do GPU work: '{PROGRAM} worker gpu'")
    with bind(worker=str(GPU.worker)):
        insist(GPU.serve)
