"""What apps have the GPU do. An app registers one object, which the arbiter, the sweep and the pages then ask.

Knows neither batches nor training.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from models_registry.models import Worker
from vbs.pages.viewer import Viewer


@dataclass(frozen=True)
class Work:
    """Something that waits for the GPU.

    model: whose engine it needs. since: when it began to wait. deadline: when it has to have ended. part: which part
    of it this is, for its workload to know. frees: it only takes load off the GPU, so it may run on one that is too hot
    or too full. only: the worker that it is for, where not any may do it.
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


class Workload:
    """What one app has the GPU do. What an app does not say is nothing.

    kind: of its work, in a word; by it and an id a worker's row says what the worker is at.
    """

    kind: str

    def waiting(self, loaded: str) -> list[Work]:
        """What could run now, best first; a bounded number. `loaded` is the name of the loaded model, or empty."""
        return []

    def run(self, work: Work, gpu: Any) -> None:
        """Run it, or a part of it: until it is done, something more urgent waits, or `gpu.stopping()`.

        gpu: the `Gpu` whose worker this is.
        """
        raise NotImplementedError

    def release(self, worker: uuid.UUID) -> None:
        """Take from a worker that is known to be dead, or to have met an error, what it holds."""

    def needs(self, names: Sequence[str]) -> list[str]:
        """What keeps a model that goes by these names from being removed, each in words."""
        return []

    def interrupts(self, worker: Worker, viewer: Viewer) -> Iterable[str]:
        """What a restart of the worker would interrupt, in sentences for this viewer."""
        return []

    def sees(self, viewer: Viewer, work_id: str) -> bool:
        """May the viewer, who does not see every project, know of the work with this id?"""
        return False


WORKLOADS: list[Workload] = []


def register(workload: Workload) -> None:
    WORKLOADS.append(workload)


def waiting(loaded: str) -> list[Work]:
    """What could run now, of all apps."""
    return [work for workload in WORKLOADS for work in workload.waiting(loaded)]


def release(worker: uuid.UUID) -> None:
    for workload in WORKLOADS:
        workload.release(worker)


def needs(names: Sequence[str]) -> list[str]:
    return [reason for workload in WORKLOADS for reason in workload.needs(names)]


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
