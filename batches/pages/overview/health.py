"""The state of the server in one line, and its problems with what to do about each. /ready checks more: it writes to
the storage."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from django.conf import settings
from django.db.models import Max
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from batches.pages.overview import unproven
from models_registry.catalog import demo
from models_registry.models import Measurement, MeasurementKind, Model, ModelState, Worker, WorkerState
from models_registry.pages.models.rows import CHANGES
from models_registry.pages.system.page import OPERATES
from vbs.pages.parts import Part
from vbs.pages.plain import brief, visible
from vbs.pages.templatetags.words import when
from vbs.pages.viewer import Viewer
from vbs.pages.words import duration, size
from vbs.places import PROGRAM
from vbs.run import space

ATTENTION, BAD = "attention", "bad"
LOST_SECONDS = 86_400  # for which the end of an idle engine is told, unless its model is loaded again
NAMED = 3  # models that a problem names
NO_WORKER = {
    "io": "Uploaded batches are not read, outputs are not written and models are not fetched.",
    "gpu": "No model is loaded and no batch runs.",
}


@dataclass(frozen=True)
class Problem:
    """state: BAD, or ATTENTION where work goes on. words: what is wrong, and what to do. command, address: where to
    correct it, and link: the words of that address."""

    name: str
    state: str
    words: str
    command: str = ""
    address: str = ""
    link: str = ""


def health(workers: Sequence[Worker], viewer: Viewer, first_steps: bool) -> Part:
    """workers: all rows, including those of dead workers. first_steps: the page tells them, so a lack of models is no
    problem."""
    found = sorted(problems(workers, viewer, first_steps), key=lambda problem: problem.state != BAD)
    context = {"problems": found, "facts": facts(workers)}
    return Part("health", "batches/overview/_health.html", context)


def facts(workers: Sequence[Worker]) -> list[str]:
    """What the line says beside that all is well, or how many problems there are."""
    found = [_engine(worker) for worker in workers if worker.cluster == "gpu" and worker.alive]
    with suppress(OSError):  # it is told as a problem
        found.append(f"{_whole(space.of(settings.VBS_DATA_DIR).free)} free")
    return found


def _engine(worker: Worker) -> str:
    if worker.state == WorkerState.LOADING:
        return visible(worker.activity) or "A model is being loaded"
    if not worker.model_name:
        return "No model is loaded"
    return f"{visible(worker.model_name)} {'is at work' if worker.state == WorkerState.RUNNING else 'is loaded'}"


def problems(workers: Sequence[Worker], viewer: Viewer, first_steps: bool = False) -> Iterator[Problem]:
    """In a bounded number of queries."""
    yield from _storage(viewer)
    alive = [worker for worker in workers if worker.alive]
    for cluster, name in (("io", "io workers"), ("gpu", "GPU worker")):
        if all(worker.cluster != cluster for worker in alive):
            yield _dead(cluster, name, workers)
    gpu = [worker for worker in alive if worker.cluster == "gpu"]
    for worker in gpu:
        if worker.state == WorkerState.IDLE and worker.activity:
            words = f"It takes up no work: {visible(worker.activity)}."
            yield Problem("GPU worker", ATTENTION, words, address=reverse("system"), link="System")
    yield from _lost(gpu)
    yield from _unreachable(gpu, viewer)
    yield from _models(first_steps)
    if not first_steps:
        yield from _unproven(gpu, viewer)


def _storage(viewer: Viewer) -> Iterator[Problem]:
    """The folder of the files. Only /ready checks a remote storage, by writing to it."""
    folder = settings.VBS_DATA_DIR
    look = f"ls -ld {folder}" if viewer.may(OPERATES) else ""
    try:
        disk = space.of(folder)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        yield Problem("Storage", BAD, f"The data folder cannot be read: {error.strerror}.", look)
        return
    free = f"{_whole(disk.free)} of {_whole(disk.total)} are free"
    where = " for models and scratch files; batches' files are in S3" if settings.VBS_STORAGE else ""
    remedy = {"command": f"{PROGRAM} model cleanup", "address": reverse("models"), "link": "Models"}
    if not writable:
        yield Problem("Storage", BAD, "The data folder cannot be written to: give it to the server.", look)
    elif disk.is_full:
        words = f"{free}: outputs and models do not fit any more. Remove models, or make space."
        yield Problem("Storage", BAD, words, **remedy)
    elif disk.is_low:
        words = f"{free}{where}. Remove models, or make space, before it is full."
        yield Problem("Storage", ATTENTION, words, **remedy)


def _whole(number: int) -> str:
    """The size, rounded so that it does not change with every file."""
    return f"{number // 2**30:,} GiB" if number >= 10 * 2**30 else size(number)


def _dead(cluster: str, name: str, workers: Sequence[Worker]) -> Problem:
    last = max((worker.heartbeat_at for worker in workers if worker.cluster == cluster), default=None)
    silent = (timezone.now() - last).total_seconds() if last else 0.0
    ago = "less than a minute" if silent < 60 else duration(silent)
    heard = f"The last heartbeat was {ago} ago. " if last else ""
    words = (
        f"None is running. {heard}{NO_WORKER[cluster]} '{PROGRAM} up' starts everything; this starts the worker alone:"
    )
    return Problem(name, BAD, words, f"{PROGRAM} worker {cluster}", reverse("system"), "System")


def _lost(workers: Sequence[Worker]) -> Iterator[Problem]:
    """Engines that ended by themselves while they were idle, and whose models are not loaded again."""
    told = [(worker.health.get("losses") or {}).get("last") for worker in workers]
    losses = [last for last in told if last and time.time() - last["at"] < LOST_SECONDS]
    if not losses:
        return
    loads = Measurement.objects.filter(kind=MeasurementKind.LOAD, model__name__in=[last["model"] for last in losses])
    loaded = dict(loads.order_by().values_list("model__name").annotate(at=Max("at")))
    for last in losses:
        at = datetime.fromtimestamp(last["at"], UTC)
        if last["model"] in loaded and loaded[last["model"]] > at:
            continue
        words = format_html(
            "The idle engine of {} ended {}: {}. The next request starts it again. If memory ran out, end what else "
            "uses it, or give the model less.",
            visible(last["model"]),
            when(at),
            last["how"],
        )
        yield Problem("Engine", ATTENTION, words, address=reverse("models"), link="Models")


def _unreachable(workers: Sequence[Worker], viewer: Viewer) -> Iterator[Problem]:
    """Remote models whose servers get no requests, and their addresses that are lost."""
    for lane in (lane for worker in workers for lane in worker.lanes):
        is_idle = lane["state"] == "idle"  # what it knows of its addresses may be old
        lost = [] if is_idle else [one for one in lane["addresses"] if one["state"] == "lost"]
        name = brief(lane["model"], 80)
        detail = lane.get("detail", "") if viewer.may(CHANGES) else ""
        if lane["state"] == "failed":
            words = f"The server of {name} failed when it was asked last: {_sentence(detail or lane['why'])}"
        elif lane["why"]:
            words = f"The server of {name} gets no requests now: {_sentence(lane['why'])}"
        elif lost:
            of = f"{len(lost)} of {len(lane['addresses'])} addresses of {name}"
            words = f"{of} cannot be reached: {_sentence(lost[0]['why'])} The others get its requests."
        else:
            continue
        if not detail:  # which says what to do
            words += " See whether it runs, and whether its URL and its key are right."
        state = BAD if lane["why"] else ATTENTION
        yield Problem("Remote server", state, words, address=reverse("models"), link="Models")


def _sentence(words: str) -> str:
    return f"{visible(words).rstrip('.')}."


def _models(first_steps: bool) -> Iterator[Problem]:
    checked = Model.objects.filter(state=ModelState.READY).exclude(check_error="").order_by("name")
    if unloadable := list(checked.values_list("name", flat=True)[: NAMED + 1]):
        words = f"{_names(unloadable)} could not be loaded at the last check. The page of models says why."
        yield Problem("Models", ATTENTION, words, address=reverse("models"), link="Models")
    rows = Model.objects.filter(state=ModelState.FAILED)
    if first_steps:  # they tell it of the demo model
        rows = rows.exclude(name=demo.OFFERED.name)
    if failed := list(rows.values_list("name", flat=True)[: NAMED + 1]):
        words = f"{_names(failed)} cannot be used. The page of models says why, and tries again."
        yield Problem("Models", ATTENTION, words, address=reverse("models"), link="Models")


def _unproven(workers: Sequence[Worker], viewer: Viewer) -> Iterator[Problem]:
    busy = {lane["model"] for worker in workers for lane in worker.lanes} | {worker.model_name for worker in workers}
    if not (found := unproven.models(busy)):
        return
    errors = unproven.last_errors(found, viewer.may(CHANGES))
    has, it, its = ("has", "it", "its page") if len(found) == 1 else ("have", "them", "their pages")
    words = f"{_names([model.name for model in found])} {has} never answered a request."
    if len(found) == 1 and found[0].pk in errors:
        words += f" {errors[found[0].pk]}"
    words += f" Test {it} on {its} before a batch needs {it}."
    address = reverse("model", args=[found[0].pk]) if len(found) == 1 else reverse("models")
    yield Problem("Models", ATTENTION, words, address=address, link="Test it" if len(found) == 1 else "Models")


def _names(names: Sequence[str]) -> str:
    shown = [brief(name, 60) for name in names[:NAMED]]
    if len(names) > NAMED:
        return f"{', '.join(shown)} and others"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
