"""The state of each part of the server, and what to do when one is not well. /ready checks more: it writes to the
storage."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from django.conf import settings
from django.db.models import Count, Q
from django.utils import timezone

from models_registry.gpu.control import activity
from models_registry.models import Download, DownloadState, Model, ModelState, Worker, WorkerState
from models_registry.pages.system.page import OPERATES
from vbs.pages.parts import Part
from vbs.pages.viewer import Viewer
from vbs.pages.words import duration, size
from vbs.places import PROGRAM
from vbs.run import space

OK, ATTENTION, BAD = "ok", "attention", "bad"
NO_WORKER = {
    "io": "Uploaded batches are not read, outputs are not written and models are not fetched.",
    "gpu": "No model is loaded and no batch runs.",
}


@dataclass(frozen=True)
class Fact:
    """A part of the server. state: OK, ATTENTION or BAD. command, address: where to correct it, if it needs that."""

    name: str
    state: str
    words: str
    command: str = ""
    address: str = ""


def health(workers: Sequence[Worker], viewer: Viewer) -> Part:
    found = facts(workers, viewer)
    context = {"facts": found, "wrong": sum(fact.state != OK for fact in found)}
    return Part("health", "batches/overview/_health.html", context)


def facts(workers: Sequence[Worker], viewer: Viewer) -> list[Fact]:
    """Two queries. workers: all rows, including those of dead workers."""
    return [
        Fact("Web", OK, "Answers: this page comes from it."),
        Fact("Database", OK, _database()),
        _storage(viewer),
        _io(workers),
        *_gpu(workers, viewer),
        _models(),
        _downloads(),
    ]


def _database() -> str:
    return "Answers." if settings.DATABASE_URL else "Answers; it is the one in the data folder."


def _storage(viewer: Viewer) -> Fact:
    """The folder of the files. Only /ready checks a remote storage, by writing to it."""
    folder = settings.VBS_DATA_DIR
    look = f"ls -ld {folder}" if viewer.may(OPERATES) else ""
    try:
        disk = space.of(folder)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        return Fact("Storage", BAD, f"The data folder cannot be read: {error.strerror}.", look)
    free = f"{_whole(disk.free)} of {_whole(disk.total)} are free"
    where = " for models and scratch files; batches' files are in S3" if settings.VBS_STORAGE else ""
    if not writable:
        return Fact("Storage", BAD, "The data folder cannot be written to: give it to the server.", look)
    if disk.is_full:
        words = f"{free}: outputs and models do not fit any more. Remove models, or make room."
        return Fact("Storage", BAD, words, f"{PROGRAM} model cleanup", "/models/")
    if disk.is_low:
        return Fact(
            "Storage", ATTENTION, f"{free}{where}: it may soon be full.", f"{PROGRAM} model cleanup", "/models/"
        )
    return Fact("Storage", OK, f"{free}{where}.")


def _whole(number: int) -> str:
    """The size, rounded so that it does not change with every file."""
    return f"{number // 2**30:,} GiB" if number >= 10 * 2**30 else size(number)


def _io(workers: Sequence[Worker]) -> Fact:
    alive = sum(worker.alive for worker in workers if worker.cluster == "io")
    if not alive:
        return _dead("io", "io workers", workers)
    return Fact("io workers", OK, f"{alive} {'runs' if alive == 1 else 'run'}.")


def _gpu(workers: Sequence[Worker], viewer: Viewer) -> Iterator[Fact]:
    """The GPU's workers and their engines."""
    alive = [worker for worker in workers if worker.cluster == "gpu" and worker.alive]
    if not alive:
        yield _dead("gpu", "gpu worker", workers)
        yield Fact("Engine", ATTENTION, "Its worker does not run, so its state is unknown.")
        return
    waits = next((activity(one, viewer) for one in alive if one.state == WorkerState.IDLE and one.activity), "")
    busy = sum(one.state != WorkerState.IDLE for one in alive)
    if waits:
        yield Fact("gpu worker", ATTENTION, f"Takes up no work: {waits}.")
    else:
        yield Fact("gpu worker", OK, "Working." if busy else "Running, with nothing to do.")
    loading = next((activity(one, viewer) for one in alive if one.state == WorkerState.LOADING), "")
    loaded = ", ".join(one.model_name for one in alive if one.model_name)
    if loading:
        yield Fact("Engine", OK, f"{loading}.")
    else:
        yield Fact(
            "Engine", OK, f"{loaded} is loaded." if loaded else "No model is loaded. The next batch loads its model."
        )


def _dead(cluster: str, name: str, workers: Sequence[Worker]) -> Fact:
    last = max((worker.heartbeat_at for worker in workers if worker.cluster == cluster), default=None)
    silent = (timezone.now() - last).total_seconds() if last else 0.0
    ago = "less than a minute" if silent < 60 else duration(silent)
    heard = f"The last heartbeat was {ago} ago. " if last else ""
    words = (
        f"None is running. {heard}{NO_WORKER[cluster]} '{PROGRAM} up' starts everything; this starts the worker alone:"
    )
    return Fact(name, BAD, words, f"{PROGRAM} worker {cluster}")


def _models() -> Fact:
    count = Model.objects.aggregate(
        ready=Count("pk", filter=Q(state=ModelState.READY)), failed=Count("pk", filter=Q(state=ModelState.FAILED))
    )
    ready = f"{count['ready']} {'is' if count['ready'] == 1 else 'are'} ready"
    if count["failed"]:
        words = f"{count['failed']} cannot be used, {ready}: the page of models says why."
        return Fact("Models", ATTENTION, words, f"{PROGRAM} model list", "/models/")
    if not count["ready"]:
        return Fact(
            "Models", ATTENTION, "There is no model that batches can use.", f"{PROGRAM} model add-demo", "/models/"
        )
    return Fact("Models", OK, f"{ready}.".capitalize())


def _downloads() -> Fact:
    states = dict(Download.objects.order_by().values_list("state").annotate(count=Count("pk")))
    if failed := states.get(DownloadState.FAILED, 0):
        words = f"{failed} {'has' if failed == 1 else 'have'} failed: the page of models says why and tries again."
        return Fact("Downloads", ATTENTION, words, f"{PROGRAM} model fetch NAME", "/models/")
    shown = (DownloadState.RUNNING, DownloadState.QUEUED, DownloadState.PAUSED)
    said = ", ".join(f"{states[state]} {state.label}" for state in shown if states.get(state))
    return Fact("Downloads", OK, f"{said}." if said else "None.", address="/models/" if said else "")
