"""An operation's turn on the GPU: its lease, its log, and when it has to stop. `operation_kinds` has what it does.

A thread renews the lease, writes the log and notices when it has to stop. So a slow database slows neither a load nor a
measurement.
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

from models_registry.engine import start_progress
from models_registry.engine.client import EngineDied
from models_registry.engine.log_reasons import LoadError
from models_registry.engine.server import Engine
from models_registry.gpu import operations
from models_registry.gpu.lane import Lane
from models_registry.gpu.loop import loaded_words
from models_registry.models import Model, Operation, OperationKind, OperationState, WorkerState
from models_registry.workloads import Work
from vbs.database.outages import DATABASE_ERRORS, first_line, insist
from vbs.logs import bind, bound, one_line

log = logging.getLogger(__name__)

T = TypeVar("T")

TICK_SECONDS = 0.2  # between two looks whether it has to stop
BEAT_SECONDS = 1.0  # between two renewals of the lease
OUTAGE_SECONDS = 600.0  # for which a result is kept in memory while the database cannot be reached
MOST_LINE = 2000  # characters of a line of the log
MOST_DOING = 200  # characters
LOAD_PERCENT = 40  # of an operation that loads its model first


class OperationStopped(Exception):
    """The operation has to stop before it is done. again: it is queued again."""

    def __init__(self, why: str, again: bool = False) -> None:
        super().__init__(why)
        self.again = again


class OperationFailed(Exception):
    """The operation has failed; the message says why."""


class OperationTurn:
    """What an operation has in its turn.

    makes_room: it stops for more urgent work, and begins again later. goes_on: then it goes on where it was. kept: what
    it has found so far, in this turn or an earlier one.
    """

    def __init__(self, operation: Operation, work: Work, gpu: Lane) -> None:
        self.operation, self.work, self.gpu = operation, work, gpu
        self.model: Model = operation.model
        self.options: dict[str, Any] = operation.options
        self.makes_room = self.goes_on = False
        self.kept: dict[str, Any] | None = operation.result
        self.base_percent = 0  # that is behind it once the model is loaded
        self._worker = gpu.worker.pk
        self._lines: list[str] = []
        self._loading = ""  # what the worker's row says of the load
        self._doing = ""
        self._percent: int | None = None
        self._stop: OperationStopped | None = None
        self._over = threading.Event()

    def run(self, do: "Callable[[OperationTurn], dict[str, Any]]") -> None:
        """Run the operation to its end. do: returns the result, or raises LoadError or OperationFailed when it fails,
        OperationStopped when it has to stop. Raises the database's errors.
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
            log.exception("Operation %s: an unforeseen error", self.operation.pk)
            error = f"Unforeseen error: {failure!r}"
            self.say(error)
        ending = (self.operation, self._worker, state, self._text(), result or self.kept, error)
        insist(lambda: operations.end(*ending), OUTAGE_SECONDS)

    def say(self, text: str) -> None:
        """Add a line to the operation's log; it is written within about a second."""
        self._lines.append(f"{timezone.now():%H:%M:%S} {one_line(text)[:MOST_LINE]}\n")
        log.info("Operation %s (%s): %s", self.operation.pk, self.operation, text)

    def progress(self, doing: str = "", percent: float | None = None) -> None:
        """Show what it does, and how far it is: never less far than before. It is written within about a second."""
        self._doing = one_line(doing)[:MOST_DOING] or self._doing
        if percent is not None:
            self._percent = max(self._percent or 0, min(int(percent), 99))

    def part_done(self, doing: str, part: float) -> None:
        """The same after a load. part: of what follows it, from 0 to 1."""
        self.progress(doing, self.base_percent + (100 - self.base_percent) * part)

    def keep(self, found: dict[str, Any]) -> None:
        """Write what was found so far into the operation's row."""
        self.kept = found
        insist(lambda: operations.keep_result(self.operation, self._worker, found), OUTAGE_SECONDS)

    def check(self) -> None:
        """Raises OperationStopped when it has to stop. It does not query the database."""
        if self._stop:
            raise self._stop
        if self.gpu.stopping():
            raise OperationStopped("this worker has to stop", again=True)

    def load(self) -> Engine:
        """Load the operation's model. Raises LoadError, OperationStopped."""
        before, had = self.gpu.engine, set(self.gpu.adapters)
        said = ""

        share = 100 if self.operation.kind == OperationKind.LOAD else LOAD_PERCENT

        def on_progress(doing: str) -> None:
            nonlocal said
            self.check()
            if doing != said:
                said = doing
                self.say(f"{doing[:1].upper()}{doing[1:]} …")
                loading, done = f"Loading {self.model.name}: {doing}", start_progress.percent(doing)
                if start_progress.start_of(loading) != start_progress.start_of(self._loading):
                    self._percent = None  # another start begins anew
                self._loading = loading
                self.progress(doing, None if done is None else share * done / 100)

        with self.loading():
            engine = self.gpu.load(self.model, on_progress)
        if engine is not before:
            self.base_percent = share
            self.say(loaded_words(self.model, engine))
        elif self.model.base and self.model.served_name not in had:
            self.say(f"Loaded the adapter {self.model.name} into the engine of {engine.spec.name}.")
        else:
            self.say(f"{self.model.name} is loaded already.")
        return engine

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Shows that the model is being loaded. Raises OperationStopped."""
        self.check()
        self._loading = f"Loading {self.model.name}"
        yield
        self._loading = ""
        self.check()

    def stay(self, seconds: float) -> None:
        """Keep the GPU for so long. Raises OperationStopped."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.check()
            time.sleep(TICK_SECONDS)

    def drive(self, work: Coroutine[Any, Any, T], every_second: Callable[[], object] = lambda: None) -> T:
        """Run the coroutine on an event loop until it is done. Raises its exceptions, OperationStopped."""

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
            raise OperationFailed(f"{death}. Its log may say why; the next request starts it again") from death

    # The thread

    @contextmanager
    def _kept(self) -> Iterator[None]:
        names = bound()
        thread = threading.Thread(target=lambda: self._keep(dict(names)), name="operation", daemon=True)
        attempts = self.operation.attempts
        self.say("Started." if attempts == 1 else f"Started again (attempt {attempts}).")
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
        """Renew the lease, write new lines of the log, and look whether the operation has to stop."""
        count = len(self._lines)
        try:
            progress = {"doing": self._doing, "percent": self._percent}
            if not operations.renew(self.operation, self._worker, "".join(self._lines[:count]), **progress):
                self._stop = OperationStopped("it was cancelled, or somebody else has taken it over")
                return
            del self._lines[:count]
            if self.makes_room and self.gpu.outranked(self.work):
                later = "goes on" if self.goes_on else "begins anew"
                self._stop = OperationStopped(f"something more urgent waits; it {later} after that", again=True)
            state = WorkerState.LOADING if self._loading else WorkerState.RUNNING
            self.gpu.show(state, self._loading or f"Running {self.operation.kind} {self.model}", self.work)
        except DATABASE_ERRORS as error:
            connection.close()
            log.warning("Operation %s: the database cannot be reached: %s", self.operation.pk, first_line(error))
        except Exception:  # then the lease runs out, and another worker claims the operation
            log.exception("Operation %s: its lease was not renewed", self.operation.pk)

    def _text(self) -> str:
        return "".join(self._lines)
