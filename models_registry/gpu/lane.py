"""A lane: one engine at a time, and the loop that runs its work in the arbiter's order.

The local GPU is a lane (`loop.Gpu`), and each remote model is another (`lanes.RemoteLane`). They run side by side.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from django.db import connection
from django.utils import timezone

from models_registry import workloads
from models_registry.engine.log_reasons import LoadError
from models_registry.engine.server import Engine, Progress
from models_registry.gpu.arbiter import choose, in_order, patience
from models_registry.gpu.window import Window
from models_registry.models import Model, Worker, WorkerState
from models_registry.workloads import Work
from vbs.database import outages
from vbs.database.outages import DATABASE_ERRORS, first_line

log = logging.getLogger(__name__)


class Lane(ABC):
    """name: as in `Work.lane`, empty for the local GPU. held: ids of what a turn here has claimed and not released;
    what an error has left of these is released before the next turn."""

    name = ""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.loaded_at = timezone.now()
        self.held: set[str] = set()
        self.work: Work | None = None  # that runs
        self.window: Window | None = None  # of the batches that run
        self.ended: Callable[[], object] = lambda: None  # called after each turn

    @property
    @abstractmethod
    def engine(self) -> Engine | None:
        """The loaded engine."""

    @property
    def adapters(self) -> set[str]:
        """The adapters that it has loaded, by the engine's names."""
        return set()

    @abstractmethod
    def load(self, model: Model, on_progress: Progress) -> Engine:
        """The engine that serves this model. Raises LoadError."""

    def try_out(self, model: Model, options: dict[str, Any], on_progress: Progress) -> Engine:
        """A new engine of this model with other options than its own. Raises LoadError."""
        raise LoadError(f"{model.name} does not run here, so it cannot be started with other options")

    @abstractmethod
    def unload(self, model: Model) -> bool:
        """Unload the model. False when it was not loaded."""

    @abstractmethod
    def serves(self, model: Model) -> bool:
        """Does the loaded engine serve this model, which may be an adapter, without another start?"""

    @abstractmethod
    def alone(self) -> bool:
        """Is there no other worker that could run what waits here?"""

    @abstractmethod
    def show(self, state: WorkerState, activity: str = "", work: Work | None = None) -> None:
        """Let pages see what goes on here. The activity has no id of the work, because not everybody may know it."""

    def record_check(self, model: Model, error: str = "") -> None:
        """Write that the model was loaded, and so its base, or why it was not. It is not written while the database is
        away, for a load goes on without it."""
        checked = [model.pk] if error or model.base_id is None else [model.pk, model.base_id]
        try:
            Model.objects.filter(pk__in=checked).record_check(error)
        except DATABASE_ERRORS as away:
            connection.close()
            log.warning("It is not written whether %s was loaded: %s", model, first_line(away))

    @property
    def loaded(self) -> str:
        """The name of the loaded model, or empty."""
        return self.engine.spec.name if self.engine else ""

    def stopping(self) -> bool:
        return bool(outages.stopping.is_set())

    def next(self, freeing: bool = False) -> Work | None:
        """The work to do now; with `freeing` only work that unloads something."""
        return self._next(self.loaded, self.loaded_at, freeing)

    def _next(self, loaded: str, loaded_at: datetime, freeing: bool = False) -> Work | None:
        waiting = [work for work in self._waiting(loaded) if work.frees or not freeing]
        return choose(waiting, loaded, loaded_at, timezone.now(), patience())

    def _waiting(self, loaded: str) -> Iterator[Work]:
        mine = (None, self.worker.pk)
        return (work for work in workloads.waiting(loaded, self.name) if work.only_worker in mine)

    def waiting(self) -> list[Work]:
        """All that waits, in the order in which it would be done now."""
        now = timezone.now()
        return [work for work, _ in in_order(self._waiting(self.loaded), self.loaded, self.loaded_at, now, patience())]

    def wants(self, engine: str) -> bool:
        """Would the model of this name be needed next, if it were loaded?"""
        work = self._next(engine, timezone.now())
        return work is not None and work.model == engine and not work.frees

    def outranked(self, work: Work) -> bool:
        """Does work with a higher priority wait?"""
        return any(other.priority > work.priority for other in self._waiting(self.loaded))

    def run(self, work: Work) -> None:
        """Run one work. Raises the database's errors, and then `release_held` has to be called."""
        self.work = work
        try:
            work.source.run(work, self)
        finally:
            self.work = self.window = None
        self.held.clear()
        self.ended()

    def release_held(self) -> None:
        """Release the leases that an error may have left."""
        if self.held:
            workloads.release(self.worker.pk, self.held)
            self.held.clear()
