"""The page of the system as parts: every worker, and whether what vbs needs is there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings
from django.urls import reverse
from django.utils import timezone

from models_registry.gpu import control
from models_registry.models import STALE, Worker
from models_registry.pages.parts import Reading
from models_registry.pages.rows import readings_of
from models_registry.readiness import OK, STORAGE
from vbs.live.pages import Page
from vbs.pages.parts import Part, Values, pulse
from vbs.pages.viewer import Viewer
from vbs.pages.words import duration, size
from vbs.run import space

MOST = 100  # workers that are shown
OPERATES = "models_registry.change_worker"  # who may, is told which machine it is
SILENT = f"No heartbeat for more than {STALE.seconds} s. The operators of this server see what to do."


@dataclass(frozen=True)
class Check:
    """Something that vbs needs. fix: what to do when it is not well."""

    name: str
    state: str
    well: bool
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Health(Values):
    template = "system/_health.html"
    id: str = "health"
    checks: tuple[Check, ...]


@dataclass(frozen=True, kw_only=True)
class Beat(Values):
    """What moves of a worker. age: since its last heartbeat. doing: in words."""

    template = "system/_beat.html"
    alive: bool
    state: str
    doing: str
    age: str
    readings: tuple[Reading, ...]


@dataclass(frozen=True, kw_only=True)
class Card(Values):
    """A worker. fix: what to do about one that is dead. version: of vbs, where that is known. loaded: whether there is
    an engine that can be started again."""

    template = "system/_worker.html"
    pk: str
    name: str
    cluster: str
    host: str
    pid: int
    version: str
    started: datetime
    alive: bool
    fix: str
    restarting: bool
    model: str
    adapters: tuple[str, ...]
    engine_pid: int | None
    loaded: bool
    children: Sequence[Beat] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class Workers(Values):
    template = "system/_workers.html"
    id: str = "workers"
    ids: tuple[str, ...]
    more: int
    children: Sequence[Card] = field(default=(), repr=False)


def build(viewer: Viewer, query: Any) -> dict[str, Part | Values]:
    rows = list(Worker.objects.order_by("cluster", "started_at", "pk")[: MOST + 1])
    shown = sorted(rows[:MOST], key=lambda worker: not worker.alive)
    cards = tuple(_card(worker, viewer) for worker in shown)
    return {
        "health": Health(checks=tuple(_checks(rows, viewer.may(OPERATES)))),
        "workers": Workers(ids=tuple(card.id for card in cards), more=len(rows) - len(shown), children=cards),
        "pulse": pulse(url=reverse("system-live"), every=5),
    }


# Workers


def _card(worker: Worker, viewer: Viewer) -> Card:
    alive = worker.alive
    asked, operates = worker.restart_asked_at, viewer.may(OPERATES)
    return Card(
        id=f"worker-{worker.pk}",
        pk=str(worker.pk),
        name=str(worker) if operates else f"{worker.cluster}, pid {worker.pid}",
        cluster=worker.cluster,
        host=worker.hostname if operates else "",
        pid=worker.pid,
        version=worker.version,
        started=worker.started_at,
        alive=alive,
        fix="" if alive else _fix(worker) if operates else SILENT,
        restarting=alive and asked is not None and asked >= worker.started_at,
        model=worker.model_name,
        adapters=tuple(worker.adapters),
        engine_pid=worker.engine_pid,
        loaded=alive and bool(worker.model_name) and worker.engine_pid is not None,
        children=(_beat(worker, viewer, alive),),
    )


def _beat(worker: Worker, viewer: Viewer, alive: bool) -> Beat:
    return Beat(
        id=f"beat-{worker.pk}",
        alive=alive,
        state=worker.state if alive else "dead",
        doing=control.activity(worker, viewer),
        age=_age((timezone.now() - worker.heartbeat_at).total_seconds()),
        readings=tuple(readings_of(worker.health)) if alive else (),
    )


def _age(seconds: float) -> str:
    """In whole seconds, so that it is not another one with each look."""
    return f"{max(0, int(seconds))} s" if seconds < 60 else duration(seconds)


def _fix(worker: Worker) -> str:
    return (
        f"No heartbeat for more than {STALE.seconds} s: its process has ended, hangs, or does not reach the database. "
        f"On {worker.hostname}, see whether pid {worker.pid} runs and what the log of {worker.cluster} says; "
        f"'manage.py up' starts it again. What it held is taken over by others once its lease has run out "
        f"({settings.VBS_LEASE_SECONDS} s), and this card goes an hour after its last heartbeat."
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
    fix = "Files can be neither taken in nor given out: see whether the disk is full (Clean the disk) and who owns "
    fix += f"{folder}."
    if settings.VBS_STORAGE:
        fix = "Files can be neither taken in nor given out: check VBS_STORAGE, VBS_S3_ENDPOINT and the credentials."
    found.append(Check("Storage", "can be written to" if storage == OK else storage, storage == OK, fix))
    disk = space.of(settings.VBS_DATA_DIR)
    state = f"{size(disk.free)} of {size(disk.total)} are free"
    found.append(Check("Disk", state, not disk.is_low, "Clean the disk, or remove models, below."))
    return found


def _cluster(name: str, shown: str, without: str, alive: set[str]) -> Check:
    fix = f"{without}: start 'manage.py up', or 'manage.py worker {name}'. The log of {name} says why it ended."
    return Check(shown, "alive" if name in alive else "no heartbeat", name in alive, fix)


PAGE = Page(build=build, topics=lambda: ("workers",))
