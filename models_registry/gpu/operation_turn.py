"""One operation's time on the GPU: its lease, its log, and when it has to stop. Knows no kinds of operations.

A thread of its own keeps the lease, writes the log and hears of ends, so a slow database slows neither the loading of
a model nor what is measured.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from django.db import connection
from django.utils import timezone

from models_registry.engine.client import EngineDied
from models_registry.engine.log_reasons import LoadError
from models_registry.engine.server import Engine
from models_registry.gpu import operations
from models_registry.gpu.gpu import Gpu, loaded_words
from models_registry.models import Model, Operation, OperationState, WorkerState
from models_registry.workloads import Work
from vbs.database.outages import DATABASE_ERRORS, first_line, insist
from vbs.logs import bind, bound, one_line

log = logging.getLogger(__name__)

T = TypeVar("T")

TICK_SECONDS = 0.2  # between looks whether to stop
BEAT_SECONDS = 1.0  # between renewals of the lease
OUTAGE_SECONDS = 600.0  # how long a result is held while the database is away
MOST_LINE = 2000  # characters


class OperationStopped(Exception):
    """It has to end before it is done. again: it waits for another turn."""

    def __init__(self, why: str, again: bool = False) -> None:
        super().__init__(why)
        self.again = again


class OperationFailed(Exception):
    """It cannot be done; the message says why."""


class OperationTurn:
    """What one operation has while it runs on this GPU. `makes_room`: for something more urgent, to begin anew."""

    def __init__(self, operation: Operation, work: Work, gpu: Gpu) -> None:
        self.operation, self.work, self.gpu = operation, work, gpu
        self.model: Model = operation.model
        self.options: dict[str, Any] = operation.options
        self.makes_room = False
        self._worker = gpu.worker.pk
        self._lines: list[str] = []
        self._doing = ""
        self._stop: OperationStopped | None = None
        self._over = threading.Event()

    def run(self, do: "Callable[[OperationTurn], dict[str, Any]]") -> None:
        """From the claim to the end, whatever comes of `do`, which returns the result or raises.

        LoadError and Failed are failures, Stopped a cancellation or a pause. Raises the database's errors.
        """
        state, result, error = OperationState.FAILED, None, ""
        try:
            with self._kept():
                result = do(self)
            state = OperationState.SUCCEEDED
            self.say("Done.")
        except OperationStopped as stop:
            self.say(f"Stopped: {stop}.")
            if stop.again:
                insist(lambda: operations.put_back(self.operation, self._worker, self._text()), OUTAGE_SECONDS)
                return
            state = OperationState.CANCELLED
        except (LoadError, OperationFailed) as failure:
            error = str(failure)
            self.say(f"Failed: {error}")
        except DATABASE_ERRORS:
            raise
        except Exception as failure:
            log.exception("Unforeseen error in an operation")
            error = f"Unforeseen error: {failure!r}"
            self.say(error)
        ending = (self.operation, self._worker, state, self._text(), result, error)
        insist(lambda: operations.end(*ending), OUTAGE_SECONDS)

    def say(self, text: str) -> None:
        """A line in the operation's log. It is written within a second or so."""
        self._lines.append(f"{timezone.now():%H:%M:%S} {one_line(text)[:MOST_LINE]}\n")
        log.info("%s: %s", self.operation, text)

    def check(self) -> None:
        """Raises Stopped. Asks no database."""
        if self._stop:
            raise self._stop
        if self.gpu.stopping():
            raise OperationStopped("this worker has to stop", again=True)

    def load(self) -> Engine:
        """Raises LoadError, Stopped."""
        before, had = self.gpu.resident.engine, set(self.gpu.resident.adapters)
        said = ""

        def on_progress(doing: str) -> None:
            nonlocal said
            self.check()
            if doing != said:
                said = doing
                self.say(f"{doing[:1].upper()}{doing[1:]} …")

        self._doing = f"Loading {self.model.name}"
        self.check()
        engine = self.gpu.load(self.model, on_progress)
        self._doing = ""
        self.check()
        if engine is not before:
            self.say(loaded_words(self.model, engine))
        elif self.model.base and self.model.served_name not in had:
            self.say(f"Loaded the adapter {self.model.name} into the engine of {engine.spec.name}.")
        else:
            self.say(f"{self.model.name} is loaded already.")
        return engine

    def drive(self, work: Coroutine[Any, Any, T], every_second: Callable[[], object] = lambda: None) -> T:
        """Run it on a loop of its own, which may last as long as nothing stops it. Raises what it raises, Stopped."""

        async def watched() -> T:
            task = asyncio.create_task(work)
            told = time.monotonic()
            try:
                while not task.done():
                    self.check()
                    await asyncio.wait((task,), timeout=TICK_SECONDS)
                    if time.monotonic() - told >= 1:
                        told = time.monotonic()
                        every_second()
                return task.result()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        try:
            return asyncio.run(watched())
        except EngineDied as death:
            raise OperationFailed(f"{death}: its log says why, and the next request starts it again") from death

    # The thread.

    @contextmanager
    def _kept(self) -> Iterator[None]:
        names = bound()
        thread = threading.Thread(target=lambda: self._keep(dict(names)), name="operation", daemon=True)
        attempts = self.operation.attempts
        self.say("Taken up." if attempts == 1 else f"Taken up again, for the {attempts}. time.")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _keep(self, names: dict[str, str]) -> None:
        with bind(**names):
            try:
                while True:
                    self._beat()
                    if self._over.wait(BEAT_SECONDS):
                        return
            finally:
                connection.close()

    def _beat(self) -> None:
        """Renew the lease, write what was said, see what others want."""
        count = len(self._lines)
        try:
            if not operations.renew(self.operation, self._worker, "".join(self._lines[:count])):
                self._stop = OperationStopped("it was cancelled, or somebody else has taken it over")
                return
            del self._lines[:count]
            if self.makes_room and self.gpu.outranked(self.work):
                self._stop = OperationStopped("something more urgent waits; it begins anew after that", again=True)
            state = WorkerState.LOADING if self._doing else WorkerState.RUNNING
            self.gpu.show(state, self._doing or f"Running {self.operation.kind} {self.model}", self.work)
        except DATABASE_ERRORS as error:
            connection.close()
            log.warning("The database is out of reach: %s", first_line(error))
        except Exception:  # the lease runs out then, and somebody else takes it up
            log.exception("An operation is not kept")

    def _text(self) -> str:
        return "".join(self._lines)
