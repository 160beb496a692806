"""Runs a batch on an engine: lines of the input file are sent, and answers are committed as they come.

The database decides: a request is done when its row says so, in the same transaction as the batch's counts. When a
worker dies, only the requests that it had in flight run again; a worker that has lost its lease cannot commit.
"""

import asyncio
import enum
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing, contextmanager, suppress
from dataclasses import replace
from typing import NoReturn, TypeVar

from django.db import connection
from django.db.models import Exists

from batches.files import blobs
from batches.intake import ingest, parameters
from batches.intake.validate import LineError
from batches.models import Batch, Pause, RequestState, request_id
from batches.queue import pauses
from batches.run import commit, engine_deaths, temporary_errors, unloadable
from batches.run.outcomes import Outcome, failure, outcome
from batches.run.pace import Rates
from models_registry.catalog import aliases
from models_registry.engine.client import Call, Client, EngineDied
from models_registry.engine.log_reasons import LoadError
from models_registry.engine.server import Engine
from models_registry.gpu.loop import Gpu, loaded_words
from models_registry.gpu.window import in_flight, limits, shortfall
from models_registry.models import Model, ModelState, WorkerState
from models_registry.speed import measurements
from models_registry.workloads import Work
from vbs.configuration import runtime
from vbs.database.outages import insist
from vbs.openai import raw_json

log = logging.getLogger(__name__)

T = TypeVar("T")

TICK_SECONDS = 0.4  # between two commits, and between two looks at the batch's row
RENEW_SECONDS = 5.0  # after which the lease is renewed when nothing is committed
PAGE = 1000  # pending requests that are read at once
BUFFER_BYTES = 64 * 2**20  # of answers that may wait for a commit
OUTRANKED_SECONDS = 2.0  # between two looks for more urgent work, and for a pause
OUTAGE_SECONDS = 600.0  # for which answers are kept in memory while the database cannot be reached


class RunEnd(enum.Enum):
    """Why a run on an engine ended, in words for the batch's log."""

    DONE = "no request of this model is left"
    CLOSED = "the batch was cancelled or has expired"
    FETCHING = "its model is being fetched"
    YIELDED = "something more urgent waits"
    PAUSED = "the queue is paused"
    STOPPED = "this worker has to stop"


# Seconds for which requests in flight may go on when the batch has to leave the GPU.
DRAIN = {RunEnd.YIELDED: 30.0, RunEnd.PAUSED: 30.0, RunEnd.STOPPED: 2.0}


class Interrupted(Exception):
    """The turn ended while the model was loading, and the batch has been released."""


class DamagedLine(Exception):
    """A line of the input file has changed since it was validated."""


class Runner:
    """A turn of a batch with one of its models: load the model and run what is pending, also after engines died."""

    def __init__(self, batch: Batch, work: Work, gpu: Gpu) -> None:
        self.batch, self.work, self.gpu = batch, work, gpu
        self.worker = gpu.worker.pk
        self.model_index = work.segment
        self.asked: str = batch.model_names[work.segment]
        self.deaths = engine_deaths.Deaths()
        self._looked = 0.0
        self._said = ""

    def run(self) -> None:
        """Raises LeaseLost, OperationalError when the database stays out of reach, and the storage's own errors."""
        if not self._has_work():
            return self._leave(RunEnd.DONE)
        try:
            self._look()
            with self._input() as descriptor:
                self._run(descriptor)
        except Interrupted:
            return
        except blobs.BlobGone:
            unloadable.fail(self.batch, self.worker, None, ingest.lost(self.batch, "is not in the storage any more"))
            self._leave(RunEnd.DONE)

    @contextmanager
    def _input(self) -> Iterator[int]:
        """The input file, open until this turn ends, so that it can be read even if it is removed meanwhile.

        Raises blobs.BlobGone, InputUnreadable.
        """
        file = self.batch.input_file
        if file is None or file.purged_at:
            raise blobs.BlobGone
        with ExitStack() as stack:
            try:
                descriptor = stack.enter_context(blobs.opened(file.blob))
            except blobs.troubles() as error:
                raise temporary_errors.InputUnreadable from error
            yield descriptor

    def _run(self, descriptor: int) -> None:
        while self._has_work():
            try:
                model = self._model()
                engine = self._acquire(model)
                if self.deaths.idle >= engine_deaths.IDLE:
                    raise LoadError(f"the engine ended {engine_deaths.IDLE} times by itself")
            except LoadError as error:
                self._cannot_load(error)
                return self._leave(RunEnd.DONE)
            if not self.batch.start(self.worker, self.asked, model):
                self._interrupt(RunEnd.CLOSED)
            self.gpu.show(WorkerState.RUNNING, f"Running a batch on {model.name}", self.work)
            run = EngineRun(self, engine, model, descriptor, self._window(engine))
            try:
                return self._leave(run.drive())
            except EngineDied as death:
                self.deaths.record(run.window, len(death.in_flight), run.answered)
                self._after_death(death, run.seen)
        self._leave(RunEnd.DONE)

    def _has_work(self) -> bool:
        """Is a request of this model left? Without one, no engine is loaded, or started again after its death."""
        return self.batch.requests.filter(state=RequestState.PENDING, model_index=self.model_index).exists()

    def _window(self, engine: Engine) -> int:
        window = in_flight(engine)
        words = shortfall(engine, window) if self.batch.pending > window else ""
        if words not in ("", self._said):
            self._said = words
            self.batch.note(words, "warning")
        return window

    def _model(self) -> Model:
        """The model of this name: the one with which the batch has started, else the present one. Raises LoadError."""
        name = self.batch.pinned_names()[self.model_index]
        if (model := aliases.resolve(name)) is None:
            raise LoadError(unloadable.refusal(model, name))
        if ModelState.DOWNLOADING in (model.state, model.base and model.base.state):
            self._interrupt(RunEnd.FETCHING)
        return model

    def _acquire(self, model: Model) -> Engine:
        self._look()
        before = self.gpu.resident.engine

        def on_progress(doing: str) -> None:
            if time.monotonic() - self._looked > 1:
                self._look()
                self.gpu.show(WorkerState.LOADING, f"Loading {model.name}: {doing}", self.work)

        engine = self.gpu.load(model, on_progress)
        if engine is not before:
            self.batch.note(loaded_words(model, engine))
        return engine

    def _look(self) -> None:
        """Renew the lease. Raises Interrupted when the batch does not need the load any more."""
        if commit.commit(self.batch.pk, self.worker, []).closed:
            self._interrupt(RunEnd.CLOSED)
        if self.gpu.stopping():
            self._interrupt(RunEnd.STOPPED)
        if pauses.current():
            self._interrupt(RunEnd.PAUSED)
        self._looked = time.monotonic()

    def _interrupt(self, end: RunEnd) -> NoReturn:
        """End the turn at once; the load may go on for other work."""
        self._leave(end)
        raise Interrupted(end.value)

    def wanted_by_others(self) -> RunEnd | None:
        """Why this batch has to leave the GPU with work left; None when it may go on. Its priority is read anew."""
        held = Exists(Pause.objects.filter(ended_at=None))
        row = Batch.objects.filter(pk=self.batch.pk).annotate(held=held).values_list("priority", "held").first()
        if row is None:
            return None
        priority, is_held = row
        if is_held:
            return RunEnd.PAUSED
        self.work = replace(self.work, priority=priority)
        return RunEnd.YIELDED if self.gpu.outranked(self.work) else None

    def _cannot_load(self, error: LoadError) -> None:
        """Fail the requests of this model."""
        log.warning("The model %r could not be loaded: %s", self.asked, error)
        unloadable.fail(self.batch, self.worker, self.model_index, unloadable.lost(self.asked, error.public))

    def _after_death(self, death: EngineDied, before: int) -> None:
        """Count the death for the requests in flight. before: deaths that they had seen. One that was alone, and had
        seen enough, fails as the cause."""
        if len(death.in_flight) == 1 and before >= engine_deaths.GUILTY:
            message = "The engine died each time this request was running, the last time with no other."
            commit.commit(
                self.batch.pk, self.worker, [failure(key, "engine_crashed", message) for key in death.in_flight]
            )
        else:
            commit.mark_crashed(self.batch.pk, self.worker, death.in_flight)
        self.batch.note(f"The engine died with {len(death.in_flight)} requests in flight: {death.how}.", "warning")
        if self.deaths.barren >= engine_deaths.BARREN and self._has_work():
            message = self.deaths.given_up(death.how)
            lost: LineError = {"code": "engine_keeps_dying", "line": None, "message": message, "param": None}
            unloadable.fail(self.batch, self.worker, self.model_index, lost)

    def _leave(self, end: RunEnd) -> None:
        """End the turn: finish the batch if its last request has ended meanwhile, else release it."""
        if not self.batch.finish(self.worker):
            self.batch.release(self.worker)
            if end in DRAIN:
                self.batch.note(f"Interrupted: {end.value}.")
        log.info("Leaving the batch: %s", end.value)


class EngineRun:
    """The asynchronous part of a turn, on one engine: it lasts until the engine dies or the turn ends.

    An event loop speaks with the engine, and one thread with the database, so a slow commit does not slow the engine.
    """

    def __init__(self, runner: Runner, engine: Engine, model: Model, descriptor: int, window: int) -> None:
        self.runner, self.engine, self.model, self.window = runner, engine, model, window
        self._descriptor = descriptor  # of the input file
        self.answered = self._sent = 0
        self.batch_id, self.worker = runner.batch.pk, runner.worker
        self.endpoint = runner.batch.endpoint
        self.call_path = self.endpoint.removeprefix("/v1")
        self.client = Client(engine, limits())
        self._served_name = raw_json.raw(model.served_name)
        most = runtime.value("VBS_DEFAULT_MAX_TOKENS")
        self._most_tokens = raw_json.raw(most) if most else None
        self.tally = measurements.Tally()
        self.seen = 0  # engine deaths that the requests in flight have seen
        self.end: RunEnd | None = None
        self._outcomes: list[Outcome] = []
        self._bytes = 0
        self._in_time = asyncio.Event()  # cleared while the batch seems to be expired: then nothing new is sent
        self._in_time.set()
        # Before half of the first window has been answered, a rate says nothing about the rest.
        self._rates = Rates(least=min(window, runner.batch.pending) / 2)
        self._done = asyncio.Event()  # ends the ticker
        self._room = asyncio.Event()  # cleared while too many bytes of answers wait for their commit
        self._room.set()

    def drive(self) -> RunEnd:
        """Run it. Raises EngineDied, after the earlier answers are committed, LeaseLost, OperationalError."""
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="database") as self._database:
                try:
                    return asyncio.run(self._drive())
                finally:
                    self._database.submit(lambda: connection.close())  # the thread's own connection
        finally:
            measurements.record_turn(self.model, self.engine, self.tally, self.batch_id, self.endpoint)

    async def _drive(self) -> RunEnd:
        met = self.runner.deaths
        while True:
            last = engine_deaths.together(self.window, self.seen) == 1 and self.seen >= engine_deaths.GUILTY
            trial, before = met.trial(self.window, self.seen), self._sent
            counts = (self.seen, commit.MOST_CRASHES if last else self.seen)
            end = await self._level(counts, met.size(self.window, self.seen), trial)
            if end is not None:
                return end
            if self._sent - before == trial:
                met.narrow -= 1
            elif last:
                return RunEnd.DONE
            else:
                self.seen += 1

    async def _level(self, crashes: tuple[int, int], window: int, most: int | None) -> RunEnd | None:
        """Run the requests that have seen so many engine deaths, `most` of them if it is given. window: how many at
        once."""
        self._done.clear()
        consumer = asyncio.create_task(self._consume(crashes, window, most))
        ticker = asyncio.create_task(self._tick())
        try:
            await asyncio.wait((consumer, ticker), return_when=asyncio.FIRST_COMPLETED)
            if self.end in DRAIN:
                await self._drain(consumer)
        finally:
            self._done.set()
            if not consumer.done():
                consumer.cancel()
            results = await asyncio.gather(consumer, ticker, return_exceptions=True)
        if isinstance(results[1], BaseException):  # a lost lease is the cause of the consumer's error
            raise results[1]
        if self._outcomes:
            await self._flush()
        if isinstance(results[0], BaseException) and not isinstance(results[0], asyncio.CancelledError):
            raise results[0]
        return self.end

    async def _drain(self, consumer: asyncio.Task[None]) -> None:
        """Send nothing new; let the requests in flight end for a while, and commit their answers."""
        began = time.monotonic()
        while not consumer.done():
            reason = RunEnd.STOPPED if self.runner.gpu.stopping() else self.end
            if reason is None or time.monotonic() - began > DRAIN[reason]:
                return
            await asyncio.wait((consumer,), timeout=TICK_SECONDS)
            if (await self._flush()).closed:
                return

    async def _consume(self, crashes: tuple[int, int], window: int, most: int | None) -> None:
        async with aclosing(self.client.answers(self._calls(crashes, most), window)) as answers:
            async for answer in answers:
                self.answered += 1
                made = outcome(answer, self.runner.asked)
                self._outcomes.append(made)
                self._bytes += len(answer.body)
                self._rates.add(made)
                done = made.state == RequestState.COMPLETED
                self.tally.answered(answer.key, done, made.input_tokens, made.output_tokens)
                if self._bytes > BUFFER_BYTES:
                    self._room.clear()
                    await self._room.wait()

    async def _calls(self, crashes: tuple[int, int], most: int | None) -> AsyncIterator[Call]:
        """Yields the pending requests as calls, `most` of them if it is given. The next page of rows is read ahead."""
        end = None if most is None else self._sent + most

        def page(after: commit.Pending | None) -> asyncio.Future[list[commit.Pending]]:
            arguments = (self.batch_id, self.runner.model_index, crashes, after, PAGE)
            return asyncio.ensure_future(self._in_database(lambda: commit.pending(*arguments)))

        coming = page(None)
        while rows := await coming:
            coming = page(rows[-1])
            for row in rows:
                await self._in_time.wait()
                if self.end is not None or self._sent == end:
                    coming.cancel()
                    return
                try:
                    body = self._body(row)
                except DamagedLine as damage:
                    self._outcomes.append(failure(row.id, ingest.UNAVAILABLE, str(damage)))
                    continue
                self._sent += 1
                self.tally.sent(row.id, parameters.is_unlimited(self.endpoint, body))
                yield Call(row.id, self.call_path, raw_json.text_of(body), request_id(self.batch_id, row.line))

    def _body(self, row: commit.Pending) -> raw_json.Members:
        """The body as it is in the file, with the engine's name of the model, and with a limit of the answer where it
        has none. Raises DamagedLine."""
        try:
            custom_id, body = raw_json.request_of(os.pread(self._descriptor, row.length, row.offset))
        except OSError as error:
            raise temporary_errors.InputUnreadable from error
        except ValueError:
            custom_id, body = "", {}
        if custom_id != row.custom_id:
            raise DamagedLine(f"Line {row.line} of the input file has changed since it was validated.")
        body["model"] = self._served_name
        if self._most_tokens is not None:
            parameters.limit(self.endpoint, body, self._most_tokens)
        return body

    async def _tick(self) -> None:
        """Commit, renew the lease, and look whether the turn has to end. Returns when it has, or all is done."""
        renewed = outranked = time.monotonic()
        gpu = self.runner.gpu
        while not self._done.is_set() and self.end is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._done.wait(), TICK_SECONDS)
            now = time.monotonic()
            if self._outcomes or now - renewed > RENEW_SECONDS:
                signal, renewed = await self._flush(), now
            else:
                signal = await self._in_database(lambda: commit.check_lease(self.batch_id, self.worker))
            if signal.late:
                self._in_time.clear()
            else:
                self._in_time.set()
            if signal.closed:
                self.end = RunEnd.CLOSED
            elif gpu.stopping():
                self.end = RunEnd.STOPPED
            elif now - outranked > OUTRANKED_SECONDS:
                outranked = now
                self.end = await self._in_database(self.runner.wanted_by_others)
        self._in_time.set()  # so that the sender wakes and sees that the turn ends

    async def _flush(self) -> commit.BatchSignal:
        """Commit the answers so far."""
        taken, self._outcomes, self._bytes = self._outcomes, [], 0
        pace = self._rates.read(self.tally.oldest, self._sent, self._sent - self.answered)
        signal = await self._in_database(lambda: commit.commit(self.batch_id, self.worker, taken, pace))
        self._room.set()
        return signal

    async def _in_database(self, statement: Callable[[], T]) -> T:
        """Run the statement in the database's thread. While the database cannot be reached, it is tried again."""
        return await asyncio.get_running_loop().run_in_executor(self._database, insist, statement, OUTAGE_SECONDS)
