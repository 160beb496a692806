"""The work that apps have for the GPU. An app registers one Workload, which the arbiter, the sweep and pages ask."""

import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from models_registry.models import Model, Worker
from vbs.pages.viewer import Viewer

Request = tuple[str, bytes]  # the path below /v1, and the body


@dataclass(frozen=True)
class Work:
    """One thing that waits for the GPU, or for another lane.

    source: the workload that runs it. model: whose engine it needs. since: when it began to wait. deadline: when it has
    to have ended. segment: which part of a batch or other thing it is, where that is asked. frees: it only unloads
    something, so it may run on a GPU that is too hot or too full. only_worker: the one worker that may run it; None is
    any. asked: the names of models by which it asks for this engine, adapters and aliases among them. restarts: the
    engine is loaded, and has to be started again for it; the `Gpu` sets it. lane: empty for the local GPU, else the
    name of the remote model, which runs beside it.
    """

    source: "Workload"
    id: str
    model: str
    priority: int
    since: datetime
    deadline: datetime | None = None
    segment: int = 0
    frees: bool = False
    only_worker: uuid.UUID | None = None
    asked: tuple[str, ...] = ()
    restarts: bool = False
    lane: str = ""


class Workload:
    """The work of one app. An app overrides the methods that it needs.

    kind: of its work, in a word; by it and an id a worker's row says what the worker is at.
    """

    kind: str

    def waiting(self, loaded: str, lane: str = "") -> list[Work]:
        """The work of this lane that could run now, best first; a bounded number. loaded: name of the model that is
        loaded there, or empty."""
        return []

    def run(self, work: Work, gpu: Any) -> None:
        """Run the work until it is done, more urgent work waits, or `gpu.stopping()`. gpu: the `Lane` to run it on.

        The ids of what it claims are in `gpu.held` before that, and until they are released.
        """
        raise NotImplementedError

    def release(self, worker: uuid.UUID, ids: Collection[str] | None = None) -> None:
        """Release the leases of a worker that is known to be dead; with `ids` only of these, after an error."""

    def needs(self, names: Sequence[str]) -> list[str]:
        """What needs a model of these names, so that it cannot be removed; each in words."""
        return []

    def has_file(self, file_id: str, projects: Collection[int] | None) -> bool:
        """Has one of these projects, or any where that is None, a file of requests with this id?"""
        return False

    def sample(self, file_id: str, model: Model, count: int, seed: int, check: Callable[[], object]) -> list[Request]:
        """At most `count` requests to this model out of the file. check: raises to end it. Raises ModelError."""
        return []

    def interrupts(self, worker: Worker, viewer: Viewer) -> Iterable[str]:
        """What a restart of the worker would interrupt, in sentences for the viewer."""
        return []

    def sees(self, viewer: Viewer, work_id: str) -> bool:
        """May the viewer, who does not see every project, know of the work with this id?"""
        return False

    def held(self, worker: Worker, viewer: Viewer) -> Iterable[str]:
        """The ids of all that the worker has at once, as far as the viewer may know of them; a bounded number."""
        return []


WORKLOADS: list[Workload] = []


def register(workload: Workload) -> None:
    WORKLOADS.append(workload)


def waiting(loaded: str, lane: str = "") -> list[Work]:
    """The work of all apps that could run now in this lane."""
    return [work for workload in WORKLOADS for work in workload.waiting(loaded, lane)]


def release(worker: uuid.UUID, ids: Collection[str] | None = None) -> None:
    for workload in WORKLOADS:
        workload.release(worker, ids)


def needs(names: Sequence[str]) -> list[str]:
    return [reason for workload in WORKLOADS for reason in workload.needs(names)]


def has_file(file_id: str, projects: Collection[int] | None) -> bool:
    return any(workload.has_file(file_id, projects) for workload in WORKLOADS)


def sample(file_id: str, model: Model, count: int, seed: int, check: Callable[[], object]) -> list[Request]:
    """Requests of the workload that has the file. Raises ModelError."""
    found = (workload.sample(file_id, model, count, seed, check) for workload in WORKLOADS)
    return next(filter(None, found), [])


def interrupts(worker: Worker, viewer: Viewer) -> list[str]:
    return [sentence for workload in WORKLOADS for sentence in workload.interrupts(worker, viewer)]


def shown_id(worker: Worker, viewer: Viewer) -> str | None:
    """The id of what the worker is at, where it is at something of which the viewer may know."""
    if not worker.work_id:
        return None
    sees = viewer.projects is None or any(
        workload.kind == worker.work_kind and workload.sees(viewer, worker.work_id) for workload in WORKLOADS
    )
    return worker.work_id if sees else None


def shown_ids(worker: Worker, viewer: Viewer) -> list[str]:
    """The ids of all that the worker is at, where the viewer may know of them: the one that its row names first."""
    if not worker.work_id:
        return []
    first = shown_id(worker, viewer)
    held = [one for workload in WORKLOADS if workload.kind == worker.work_kind for one in workload.held(worker, viewer)]
    return list(dict.fromkeys([first, *held] if first else held))
