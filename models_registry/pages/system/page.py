"""The parts of the system's page: every machine with its workers, and whether the server has what it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.urls import reverse

from models_registry.gpu import control
from models_registry.models import STALE, Worker
from models_registry.pages.lanes import lanes
from models_registry.pages.machines import by_machine, readings, window
from models_registry.readiness import OK, STORAGE
from vbs.live.pages import Page
from vbs.pages.parts import Part, pulse
from vbs.pages.viewer import Viewer
from vbs.pages.words import size
from vbs.places import PROGRAM
from vbs.run import space

MOST = 100  # workers that are shown
OPERATES = "models_registry.change_worker"  # whoever has it sees the machine
SILENT = f"No heartbeat for more than {STALE.seconds} s. The operators of this server see what to do."


@dataclass(frozen=True)
class Check:
    """Something that the server needs. fix: what to do when it is not well."""

    name: str
    state: str
    well: bool
    fix: str = ""


def build(viewer: Viewer, query: Any) -> dict[str, Part]:
    rows = list(Worker.objects.order_by("cluster", "started_at", "pk")[: MOST + 1])
    shown = rows[:MOST]
    found = [_machine(place, there, viewer) for place, there in enumerate(by_machine(shown))]
    return {
        "health": Part("health", "system/_health.html", {"checks": _checks(rows, viewer.may(OPERATES))}),
        "lanes": lanes(shown, viewer),
        "workers": Part("workers", "system/_workers.html", {"more": len(rows) > len(shown)}, found),
        "pulse": pulse(reverse("system-live")),
    }


PAGE = Page(build=build, topics=lambda: ("workers",))


# Machines and their workers


def _machine(place: int, workers: Sequence[Worker], viewer: Viewer) -> Part:
    """A machine, how it is, and its workers, the dead ones last."""
    alive = [worker for worker in workers if worker.alive]
    how = Part(f"readings-{place}", "system/_readings.html", {"readings": readings(alive)})
    rows = [_row(worker, viewer) for worker in (*alive, *(worker for worker in workers if worker not in alive))]
    host = workers[0].hostname if viewer.may(OPERATES) else ""
    return Part(f"machine-{place}", "system/_machine.html", {"host": host, "number": place + 1}, [how, *rows])


def _row(worker: Worker, viewer: Viewer) -> Part:
    """A worker and its changing values. fix: what to do about a dead worker. loaded: whether it has an engine that can
    be started again."""
    alive, operates = worker.alive, viewer.may(OPERATES)
    asked = worker.restart_asked_at
    context = {
        "worker": worker,
        "alive": alive,
        "name": str(worker) if operates else f"{worker.cluster}, pid {worker.pid}",
        "fix": "" if alive else _fix(worker) if operates else SILENT,
        "restarting": alive and asked is not None and asked >= worker.started_at,
        "loaded": alive and bool(worker.model_name) and worker.engine_pid is not None,
    }
    beat = {
        "state": worker.state if alive else "dead",
        "alive": alive,
        "doing": control.activity(worker, viewer),
        "window": window(worker) if alive else "",
        "silent_since": None if alive else worker.heartbeat_at,
    }
    shown = Part(f"beat-{worker.pk}", "system/_beat.html", beat)
    return Part(f"worker-{worker.pk}", "system/_worker.html", context, [shown])


def _fix(worker: Worker) -> str:
    return (
        f"No heartbeat for more than {STALE.seconds} s: its process has ended, hangs, or cannot reach the database. "
        f"On {worker.hostname}, see whether pid {worker.pid} runs and what the log of {worker.cluster} says; "
        f"'{PROGRAM} up' starts it again. What it held is taken over by others once its lease has run out "
        f"({settings.VBS_LEASE_SECONDS} s), and this entry goes an hour after its last heartbeat."
    )


# Health


def _checks(rows: Sequence[Worker], for_operator: bool) -> list[Check]:
    alive = {worker.cluster for worker in rows if worker.alive}
    found = [
        Check("Web", "answers: this page comes from it", True),
        Check("Database", "answers", True),
        _cluster("gpu", "GPU worker", "No batch runs", alive),
        _cluster("io", "IO workers", "No batch is validated, and no output is written", alive),
    ]
    storage = STORAGE.state()
    folder = settings.VBS_DATA_DIR / "files" if for_operator else "the folder of files"
    fix = "Files can be neither uploaded nor downloaded: see whether the disk is full (under Disk) and who owns "
    fix += f"{folder}."
    if settings.VBS_STORAGE:
        fix = "Files can be neither uploaded nor downloaded: check VBS_STORAGE, VBS_S3_ENDPOINT and the credentials."
    found.append(Check("Storage", "can be written to" if storage == OK else storage, storage == OK, fix))
    disk = space.of(settings.VBS_DATA_DIR)
    state = f"{size(disk.free)} of {size(disk.total)} are free"
    found.append(Check("Disk", state, not disk.is_low, "Clean it under Disk, or remove models."))
    return found


def _cluster(name: str, shown: str, without: str, alive: set[str]) -> Check:
    fix = f"{without}: start '{PROGRAM} up', or '{PROGRAM} worker {name}'. The log of {name} says why it ended."
    return Check(shown, "alive" if name in alive else "no heartbeat", name in alive, fix)
