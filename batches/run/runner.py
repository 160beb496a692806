"""Run a batch on an engine: lines of the input file go out, answers are committed as they come.

The database is the truth: a request is done when its row says so, in the same transaction as the batch's counts. A
worker that dies leaves at most its requests in flight to be run again; a worker that has lost its lease cannot commit.
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
from batches.intake import ingest, parameters, raw_json
from batches.intake.validate import LineError
from batches.models import Batch, Pause, RequestState, request_id
from batches.queue import pauses
from batches.run import commit, deaths, troubles, unloadable
from batches.run.outcomes import Outcome, failure, outcome
from batches.run.pace import Rates
from models_registry.catalog import aliases
from models_registry.engine.client import Call, Client, EngineDied
from models_registry.engine.reasons import LoadError
from models_registry.engine.server import Engine
from models_registry.gpu.gpu import Gpu, loaded_words
from models_registry.gpu.window import few, in_flight, limits
from models_registry.models import Model, ModelState, WorkerState
from models_registry.speed import measure
from models_registry.workloads import Work
from vbs.configuration import runtime
from vbs.database.outages import insist

log = logging.getLogger(__name__)

T = TypeVar("T")

TICK_SECONDS = 0.4  # between commits, and between looks at what others did to the batch
RENEW_SECONDS = 5.0  # a lease is renewed this often when nothing is committed
PAGE = 1000  # rows read at once
BUFFER_BYTES = 64 * 2**20  # answers that may wait for a commit
OUTRANKED_SECONDS = 2.0  # between looks for something more urgent, and for a pause
OUTAGE_SECONDS = 600.0  # how long answers are held while the database is away


class End(enum.Enum):
    """Why a run on an engine ended."""

    DONE = "no request of this model is left"
    CLOSED = "the batch was cancelled or has expired"
    FETCHING = "its model is being fetched"
    YIELDED = "something more urgent waits"
    PAUSED = "the queue is paused"
    STOPPED = "this worker has to stop"


# How long what is in flight may go on when the batch has to leave, in seconds.
DRAIN = {End.YIELDED: 30.0, End.PAUSED: 30.0, End.STOPPED: 2.0}


class Interrupted(Exception):
    """While a model was loading the batch ended, the queue was paused, or the worker had to stop. It has been left."""


class Damaged(Exception):
    """A line of the input file is not what it was when it was validated."""


class Runner:
    """One batch, one of its models: load it, run what is pending, through engine deaths, until an end."""

    def __init__(self, batch: Batch, work: Work, gpu: Gpu) -> None:
        self.batch, self.work, self.gpu = batch, work, gpu
        self.worker = gpu.worker.pk
        self.model_index = work.part
        self.asked: str = batch.model_names[work.part]
        self.deaths = deaths.Deaths()
        self._looked = 0.0
        self._said = ""

    def run(self) -> None:
        """Raises LeaseLost, OperationalError when the database stays away, and what a storage raises that is away."""
        if not self._has_work():
            return self._leave(End.DONE)
        try:
            self._look()
            with self._input() as descriptor:
                self._run(descriptor)
        except Interrupted:
            return
        except blobs.Gone:
            unloadable.fail(self.batch, self.worker, None, ingest.lost(self.batch, "is not in the storage any more"))
            self._leave(End.DONE)

    @contextmanager
    def _input(self) -> Iterator[int]:
        """Its input file, open until this turn ends: it is read on when it is removed. Raises blobs.Gone, Unread."""
        file = self.batch.input_file
        if file is None or file.purged_at:
            raise blobs.Gone
        with ExitStack() as stack:
            try:
                descriptor = stack.enter_context(blobs.opened(file.blob))
            except blobs.troubles() as error:
                raise troubles.Unread from error
            yield descriptor

    def _run(self, descriptor: int) -> None:
        while self._has_work():
            try:
                model = self._model()
                engine = self._acquire(model)
                if self.deaths.idle >= deaths.IDLE:
                    raise LoadError(f"the engine ended {deaths.IDLE} times by itself")
            except LoadError as error:
                self._cannot_load(error)
                return self._leave(End.DONE)
            self.batch.start(self.worker, self.asked, model)
            self.gpu.show(WorkerState.RUNNING, f"Running a batch on {model.name}", self.work)
            run = Run(self, engine, model, descriptor, self._window(engine))
            try:
                return self._leave(run.drive())
            except EngineDied as death:
                self.deaths.met(run.window, len(death.in_flight), run.answered)
                self._mourn(death, run.seen)
        self._leave(End.DONE)

    def _has_work(self) -> bool:
        """Is a request of this model left? No engine is loaded, nor started again after its death, for none."""
        return self.batch.requests.filter(state=RequestState.PENDING, model_index=self.model_index).exists()

    def _window(self, engine: Engine) -> int:
        window = in_flight(engine)
        words = few(engine, window) if self.batch.pending > window else ""
        if words not in ("", self._said):
            self._said = words
            self.batch.note(words, "warning")
        return window

    def _model(self) -> Model:
        """What the name stands for: what it stood for when the batch started, else now. Raises LoadError."""
        name = self.batch.pinned_names()[self.model_index]
        if (model := aliases.resolve(name)) is None:
            raise LoadError(unloadable.refusal(model, name))
        if ModelState.DOWNLOADING in (model.state, model.base and model.base.state):
            self._interrupt(End.FETCHING)
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
        """Renew the lease; raise Interrupted when loading has no purpose any more for this batch."""
        if commit.commit(self.batch.pk, self.worker, []).closed:
            self._interrupt(End.CLOSED)
        if self.gpu.stopping():
            self._interrupt(End.STOPPED)
        if pauses.current():
            self._interrupt(End.PAUSED)
        self._looked = time.monotonic()

    def _interrupt(self, end: End) -> NoReturn:
        """Leave at once, for the load may go on for others."""
        self._leave(end)
        raise Interrupted(end.value)

    def others(self) -> End | None:
        """What others want, by which this batch has to leave with work left. Its own priority may be another by now."""
        held = Exists(Pause.objects.filter(ended_at=None))
        row = Batch.objects.filter(pk=self.batch.pk).annotate(held=held).values_list("priority", "held").first()
        if row is None:
            return None
        priority, is_held = row
        if is_held:
            return End.PAUSED
        self.work = replace(self.work, priority=priority)
        return End.YIELDED if self.gpu.outranked(self.work) else None

    def _cannot_load(self, error: LoadError) -> None:
        """The lines that need this model fail."""
        log.warning("The model %r could not be loaded: %s", self.asked, error)
        unloadable.fail(self.batch, self.worker, self.model_index, unloadable.lost(self.asked, error.public))

    def _mourn(self, death: EngineDied, before: int) -> None:
        """The engine died: what was in flight is suspect, with so many deaths `before` this one; alone, it did it."""
        if len(death.in_flight) == 1 and before >= deaths.GUILTY:
            message = "The engine died each time this request was running, the last time with no other."
            commit.commit(
                self.batch.pk, self.worker, [failure(key, "engine_crashed", message) for key in death.in_flight]
            )
        else:
            commit.mark_crashed(self.batch.pk, self.worker, death.in_flight)
        self.batch.note(f"The engine died with {len(death.in_flight)} requests in flight: {death.how}.", "warning")
        if self.deaths.barren >= deaths.BARREN and self._has_work():
            message = self.deaths.given_up(death.how)
            lost: LineError = {"code": "engine_keeps_dying", "line": None, "message": message, "param": None}
            unloadable.fail(self.batch, self.worker, self.model_index, lost)

    def _leave(self, end: End) -> None:
        """What had to make way may have run its last request meanwhile: then it ends, for it needs no other turn."""
        if not self.batch.finish(self.worker):
            self.batch.release(self.worker)
            if end in DRAIN:
                self.batch.note(f"Interrupted: {end.value}.")
        log.info("Leaving the batch: %s", end.value)


class Run:
    """The asynchronous part: one engine's life, or until an end.

    The loop speaks to the engine; one thread speaks to the database, so a slow commit does not slow the engine.
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
        self.tally = measure.Tally()
        self.seen = 0  # engine deaths, by what is in flight
        self.end: End | None = None
        self._outcomes: list[Outcome] = []
        self._bytes = 0
        self._in_time = asyncio.Event()  # nothing new is sent once the batch's time seems to be over
        self._in_time.set()
        # Before half of what is in flight at first has ended, a rate says nothing of the rest.
        self._rates = Rates(least=min(window, runner.batch.pending) / 2)
        self._done = asyncio.Event()  # there is nothing more to tick for
        self._room = asyncio.Event()  # for more answers to wait for their commit
        self._room.set()

    def drive(self) -> End:
        """Raises EngineDied, after what was answered before is committed; LeaseLost; OperationalError."""
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="database") as self._database:
                try:
                    return asyncio.run(self._drive())
                finally:
                    self._database.submit(lambda: connection.close())  # that thread's own
        finally:
            measure.turn(self.model, self.engine, self.tally, self.batch_id, self.endpoint)

    async def _drive(self) -> End:
        met = self.runner.deaths
        while True:
            last = deaths.together(self.window, self.seen) == 1 and self.seen >= deaths.GUILTY
            trial, before = met.trial(self.window, self.seen), self._sent
            counts = (self.seen, commit.MOST_CRASHES if last else self.seen)
            end = await self._level(counts, met.size(self.window, self.seen), trial)
            if end is not None:
                return end
            if self._sent - before == trial:
                met.narrow -= 1
            elif last:
                return End.DONE
            else:
                self.seen += 1

    async def _level(self, crashes: tuple[int, int], window: int, most: int | None) -> End | None:
        """Run the requests that have seen so many engine deaths, or `most` of them, so many at a time."""
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
        if isinstance(results[1], BaseException):  # a lost lease says more than what it led to
            raise results[1]
        if self._outcomes:
            await self._flush()
        if isinstance(results[0], BaseException) and not isinstance(results[0], asyncio.CancelledError):
            raise results[0]
        return self.end

    async def _drain(self, consumer: asyncio.Task[None]) -> None:
        """Nothing new is sent; let what is in flight end, for a while, and commit it."""
        began = time.monotonic()
        while not consumer.done():
            reason = End.STOPPED if self.runner.gpu.stopping() else self.end
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
        """The pending requests, a page at a time, the next one read ahead; no more than `most` are sent."""
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
                except Damaged as damage:
                    self._outcomes.append(failure(row.id, ingest.UNAVAILABLE, str(damage)))
                    continue
                self._sent += 1
                self.tally.sent(row.id, parameters.is_unlimited(self.endpoint, body))
                yield Call(row.id, self.call_path, raw_json.text_of(body), request_id(self.batch_id, row.line))

    def _body(self, row: commit.Pending) -> raw_json.Members:
        """As it was sent, but for the model and a limit of the answer where it has none. Raises Damaged."""
        try:
            custom_id, body = raw_json.request_of(os.pread(self._descriptor, row.length, row.offset))
        except OSError as error:
            raise troubles.Unread from error
        except ValueError:
            custom_id, body = "", {}
        if custom_id != row.custom_id:
            raise Damaged(f"Line {row.line} of the input file is not what it was when it was validated.")
        body["model"] = self._served_name
        if self._most_tokens is not None:
            parameters.limit(self.endpoint, body, self._most_tokens)
        return body

    async def _tick(self) -> None:
        """Commit, renew the lease, see what others want; returns when there is an end, or nothing more to do."""
        renewed = outranked = time.monotonic()
        gpu = self.runner.gpu
        while not self._done.is_set() and self.end is None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._done.wait(), TICK_SECONDS)
            now = time.monotonic()
            if self._outcomes or now - renewed > RENEW_SECONDS:
                signal, renewed = await self._flush(), now
            else:
                signal = await self._in_database(lambda: commit.look(self.batch_id, self.worker))
            if signal.late:
                self._in_time.clear()
            else:
                self._in_time.set()
            if signal.closed:
                self.end = End.CLOSED
            elif gpu.stopping():
                self.end = End.STOPPED
            elif now - outranked > OUTRANKED_SECONDS:
                outranked = now
                self.end = await self._in_database(self.runner.others)
        self._in_time.set()  # who waits there is to see that there is an end

    async def _flush(self) -> commit.Signal:
        """Commit every answer so far."""
        taken, self._outcomes, self._bytes = self._outcomes, [], 0
        pace = self._rates.read(self.tally.oldest, self._sent - self.answered)
        signal = await self._in_database(lambda: commit.commit(self.batch_id, self.worker, taken, pace))
        self._room.set()
        return signal

    async def _in_database(self, statement: Callable[[], T]) -> T:
        """Run it in the database's thread; while the database is away the answers wait with us."""
        return await asyncio.get_running_loop().run_in_executor(self._database, insist, statement, OUTAGE_SECONDS)
