"""A load that goes on when the work that began it ends, as long as other work needs the same model next."""

import logging
import time
from typing import Protocol

from django.db import connection

from models_registry.engine.server import Progress
from models_registry.models import Model, WorkerState
from vbs.database.outages import DATABASE_ERRORS, PAUSE_SECONDS

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks whether other work needs the model


class LoadOwner(Protocol):
    """The GPU on which the model is loaded."""

    def stopping(self) -> bool: ...

    def wants(self, engine: str) -> bool: ...

    def show(self, state: WorkerState, activity: str = "") -> None: ...


class SharedLoad:
    """Has the `on_progress` of an engine's start. gone: the exception with which the caller left the load.

    From then on the load goes on as long as waiting work needs this engine next. While the database cannot be reached
    the load goes on too; the caller learns later whether its lease is lost.
    """

    def __init__(self, gpu: LoadOwner, model: Model, asker: Progress) -> None:
        self._gpu, self._model, self._asker = gpu, model, asker
        self._engine = (model.base or model).name
        self._looked = 0.0
        self.gone: Exception | None = None

    def on_progress(self, doing: str) -> None:
        try:
            if self.gone is None:
                try:
                    return self._asker(doing)
                except DATABASE_ERRORS:
                    raise
                except Exception as error:
                    self.gone = error
            if self._gpu.stopping():
                raise self.gone
            if time.monotonic() - self._looked > LOOK_SECONDS:
                self._go_on(doing)
                self._looked = time.monotonic()
        except DATABASE_ERRORS as error:
            connection.close()
            if self._gpu.stopping():
                raise
            log.warning(
                "Model %s: the database cannot be reached: %s", self._model.name, str(error).strip().partition("\n")[0]
            )
            time.sleep(PAUSE_SECONDS)

    def _go_on(self, doing: str) -> None:
        assert self.gone is not None
        if not self._gpu.wants(self._engine):
            raise self.gone
        if not self._looked:
            log.info("Model %s: it is loaded all the same, because other work waits for it", self._model.name)
        self._gpu.show(WorkerState.LOADING, f"Loading {self._model.name}: {doing}")
