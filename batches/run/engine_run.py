"""The asynchronous part of a turn, on one engine: it lasts until the engine dies or every batch has left the turn.

An event loop speaks with the engine. One thread commits answers and reads requests, so a slow commit does not slow the
engine; another takes in the batches that wait, so a slow storage does not delay commits.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from django.db import connection

from batches.intake import ingest
from batches.models import RequestState, request_id
from batches.run import claims, commit, containment, engine_deaths, temporary_errors
from batches.run.member import DRAIN, Member, RunEnd, Segment, Sent
from batches.run.outcomes import failure, outcome
from batches.run.pace import Rates
from batches.run.share import Share
from models_registry.engine.client import Call, Client
from models_registry.engine.server import Engine
from models_registry.gpu.window import Window, limits
from models_registry.models import Model
from models_registry.serving.body import own
from models_registry.speed import measurements
from models_registry.workloads import Work
from vbs.configuration import runtime
from vbs.database.outages import DATABASE_ERRORS, first_line, insist
from vbs.openai import lengths, raw_json

if TYPE_CHECKING:
    from batches.run.turn import Look, Turn

log = logging.getLogger(__name__)

T = TypeVar("T")

TICK_SECONDS = 0.4  # between two commits, and between two looks at the batches' rows
SOONEST_SECONDS = 0.02  # between two commits when a batch has run through
RENEW_SECONDS = 5.0  # after which the lease of a batch is renewed when nothing of it is committed
LOOK_SECONDS = 1.0  # between two looks for other work, and for a pause
BUFFER_BYTES = 64 * 2**20  # of answers that may wait for a commit
GATHER_SECONDS = 2.0  # at most, in which those that wait are taken in before the first request is sent
OUTAGE_SECONDS = 600.0  # for which answers are kept in memory while the database cannot be reached


class DamagedLine(Exception):
    """A line of the input file has changed since it was validated."""


@dataclass
class Kind:
    """Requests that are measured together: for one model, at one endpoint."""

    model: Model
    endpoint: str
    tally: measurements.Tally
    batches: set[str] = field(default_factory=set)


class EngineRun:
    """answered: how many requests were answered. window: how many may be in flight. most: how many these were at the
    beginning; windows that are narrower after a death are parts of it."""

    def __init__(self, turn: "Turn", engine: Engine) -> None:
        self.turn, self.engine = turn, engine
        self.members = turn.members
        self.deaths = turn.deaths
        self.answered = 0
        self._asked_at: datetime | None = None
        self.window = Window(engine, lambda: self._in_flight, lambda: self._asked_at)
        self.most = self.window.size
        self.client = Client(engine, limits())
        self._last = engine_deaths.alone_from(self.most)
        self._share = Share(self.most)
        self._level_answered = 0  # since `narrow` was last changed
        self._in_flight = 0
        self._bytes = 0  # of answers that wait for a commit
        self._kinds: dict[tuple[int, str], Kind] = {}
        self._on_engine = measurements.InFlight()
        most = runtime.value("VBS_DEFAULT_MAX_TOKENS")
        self._most_tokens = raw_json.raw(most) if most else None
        self._joining = self._over = False
        self._failure: BaseException | None = None
        self._reads: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()  # something may be sent that could not before
        self._ending = asyncio.Event()  # the run is over, or about to be
        self._gathered = asyncio.Event()  # those that waited at the beginning are taken in
        self._soon = asyncio.Event()  # the ticker has something to do now
        self._room = asyncio.Event()  # cleared while too many bytes of answers wait for their commit
        self._room.set()

    def drive(self) -> None:
        """Run it. Raises EngineDied, after the earlier answers are committed, and OperationalError."""
        try:
            with ThreadPoolExecutor(1, "database") as self._database, ThreadPoolExecutor(1, "joining") as self._joiner:
                try:
                    asyncio.run(self._drive())
                finally:
                    for pool in (self._database, self._joiner):
                        pool.submit(lambda: connection.close())  # the thread's own connection
        finally:
            for kind in list(self._kinds.values()):
                self._record(kind)

    async def _drive(self) -> None:
        for member in self.members.values():
            self._enter(member)
        consumer = asyncio.create_task(self._consume())
        ticker = asyncio.create_task(self._tick())
        joiner = asyncio.create_task(self._admit())
        follower = asyncio.create_task(self.window.follow())
        try:
            await asyncio.wait((consumer, ticker, joiner), return_when=asyncio.FIRST_COMPLETED)
        finally:
            through, self._over = self._over, True
            for event in (self._soon, self._changed, self._room, self._ending, self._gathered):
                event.set()
            if not through:
                consumer.cancel()
            results = await asyncio.gather(ticker, joiner, consumer, return_exceptions=True)
            others = (follower, *self._reads)
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        if not isinstance(results[0], BaseException):
            await self._flush()
        for error in results:
            if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
                raise error

    # What is sent

    async def _consume(self) -> None:
        async with aclosing(self.client.answers(self._calls(), self.window.most)) as answers:
            async for answer in answers:
                sent: Sent = answer.key
                member = sent.member
                if member.in_flight.pop(sent.row.id, None) is None:
                    continue  # its batch has left meanwhile
                self._in_flight -= 1
                self.answered += 1
                try:
                    made = outcome(sent.row.id, answer, sent.segment.asked)
                except Exception as error:
                    member.trouble = error
                    self._soon.set()
                    continue
                member.answered(sent, made)
                sent.tally.answered(
                    sent.row.id, made.state == RequestState.COMPLETED, made.input_tokens, made.output_tokens
                )
                self._widen(sent.level)
                self._changed.set()
                if member.is_done:
                    self._soon.set()
                self._bytes += len(answer.body)
                if self._bytes > BUFFER_BYTES and not self._over:
                    self._room.clear()
                    self._soon.set()
                    await self._room.wait()

    def _widen(self, level: int) -> None:
        """Let more run at once again, once enough has been answered since the engine died."""
        self._level_answered += 1
        trial = self.deaths.trial(self.most, level)
        if trial is not None and self._level_answered >= trial:
            self.deaths.narrow -= 1
            self._level_answered = 0

    async def _calls(self) -> AsyncIterator[Call]:
        """Yields calls as there are places for them, until the run is over."""
        await self._all_there()
        while not self._over:
            self._changed.clear()
            if (call := self._next()) is None:
                await self._changed.wait()
            else:
                yield call

    async def _all_there(self) -> None:
        """Wait, but not for long, until what has come while the engine was loading is taken in. Else the batch that
        came first would have all places before a more urgent one is looked at."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_SECONDS):
                await self._gathered.wait()
                if self._reads:
                    await asyncio.wait(self._reads)

    def _next(self) -> Call | None:
        """The next call; None while there is no place for it, or nothing to send."""
        while True:
            member = self._share.next(self.members.values(), self._in_flight > 0)
            level = self._share.level
            places = self.window.size
            if level or self.deaths.narrow:
                places = min(places, self.deaths.size(self.most, level))
            if member is None or self._in_flight >= places:
                return None
            segment, row = member.pop(level)
            self._read_ahead(member)
            try:
                body = self._body(member, segment, row)
            except DamagedLine as damage:
                member.outcomes.append(failure(row.id, ingest.UNAVAILABLE, str(damage)))
                self._soon.set()
                continue
            except temporary_errors.InputUnreadable as error:
                member.trouble = error
                self._soon.set()
                continue
            endpoint = member.batch.endpoint
            kind = self._kind(segment.model, endpoint)
            kind.batches.add(member.batch.pk)
            self._share.sent()
            sent = member.send(segment, row, level, kind.tally)
            kind.tally.sent(row.id, lengths.is_unlimited(endpoint, body))
            self._in_flight += 1
            named = request_id(member.batch.pk, row.line)
            return Call(sent, endpoint.removeprefix("/v1"), raw_json.text_of(body), named)

    def _body(self, member: Member, segment: Segment, row: commit.Pending) -> raw_json.Members:
        """The body as it is in the file, with the engine's name of the model, without what only we may set, and with a
        limit of the answer where it has none. Raises DamagedLine, InputUnreadable."""
        try:
            custom_id, body = raw_json.request_of(os.pread(member.file, row.length, row.offset))
        except OSError as error:
            raise temporary_errors.InputUnreadable from error
        except ValueError:
            custom_id, body = "", {}
        if custom_id != row.custom_id:
            raise DamagedLine(f"Line {row.line} of the input file has changed since it was validated.")
        own(body, self.engine.spec.kind, member.batch.project_id)
        body["model"] = segment.served_name
        if self._most_tokens is not None:
            lengths.limit(member.batch.endpoint, body, self._most_tokens)
        return body

    def _read_ahead(self, member: Member) -> None:
        """Read the next page of its requests, if it is time for that."""
        if not member.wants_page or self._over:
            return
        member.reading = True

        async def read() -> None:
            page = member.next_page
            try:
                rows = await self._in_database(lambda: commit.pending(*page))
            except Exception as error:
                self._failure = error
                self._soon.set()
                return
            member.reading = False
            member.add_page(rows, self._last)
            self._share.look_anew()
            self._changed.set()
            self._read_ahead(member)
            if member.is_done:
                self._soon.set()

        task = asyncio.create_task(read())
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)

    # The batches of the turn

    def _enter(self, member: Member) -> None:
        """Begin to send the requests of a batch."""
        member.rewind()
        # Before half of the first window has been answered, a rate says nothing about the rest.
        member.rates = Rates(least=min(self.most, member.batch.pending) / 2)
        self._share.newcomer(member)
        self._read_ahead(member)

    async def _admit(self) -> None:
        """Look from time to time for batches that may join, and for what the present ones have to make way for."""
        while not self._over:
            look = await self._join(self.turn.look)
            if look is not None:
                self._heed(look)
                joined = False
                for work in look.joining:
                    if not self._over and self._has_room(work.priority, look.alone):
                        joined = await self._take_in(work) or joined
                if joined:  # what has a lower priority was not among what waits, and may have room beside these
                    if self._reads:
                        await asyncio.wait(self._reads)  # how much they have to send is known then
                    continue
            self._gathered.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), LOOK_SECONDS)

    def _heed(self, look: "Look") -> None:
        """Let batches leave for which there is more urgent work, or all in a pause."""
        self._asked_at = look.asked_at
        for member in self.members.values():
            if look.paused:
                self._bid_leave(member, RunEnd.PAUSED)
            elif look.outranking is not None and member.priority < look.outranking:
                self._bid_leave(member, RunEnd.YIELDED)
        if look.joining and len(self.members) >= self.turn.most:
            last = min(self.members.values(), key=lambda member: member.priority)
            if last.priority < look.joining[0].priority:
                self._bid_leave(last, RunEnd.YIELDED)

    def _bid_leave(self, member: Member, end: RunEnd) -> None:
        if member.end is None or end is RunEnd.STOPPED is not member.end:
            member.end, member.drained_by = end, time.monotonic() + DRAIN[end]

    def _has_room(self, priority: int, alone: bool) -> bool:
        """May another batch of this priority join? alone: there is no other worker that could run it.

        A batch joins when those of a higher priority have too few requests to fill the window, for those of its own
        share what is left with it. One that another worker could run only joins when all together have too few.
        """
        if len(self.members) >= self.turn.most:
            return False
        return self._is_hungry(above=priority if alone else None)

    def _is_hungry(self, above: int | None = None) -> bool:
        """Have the batches of a higher priority than `above`, or all, too few requests to fill the window?"""
        members = [member for member in self.members.values() if above is None or member.priority > above]
        return sum(member.unsent for member in members) < self.window.size

    async def _take_in(self, work: Work) -> bool:
        """Let a batch join. False when it did not."""
        self._joining = True
        try:
            member = await self._join(lambda: self.turn.join(work))
            if member is not None:
                self.members[member.batch.pk] = member
                self._enter(member)
                self._changed.set()
            return member is not None
        finally:
            self._joining = False
            self._soon.set()

    async def _tick(self) -> None:
        """Commit, renew leases, and see which batches leave. Returns when none is left."""
        shown: set[str] = set()
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._soon.wait(), TICK_SECONDS)
            self._soon.clear()
            if self._failure:
                raise self._failure
            await self._flush()
            for member in list(self.members.values()):
                if self.turn.gpu.stopping():
                    self._bid_leave(member, RunEnd.STOPPED)
                await self._see_to(member)
            if self._over or not (self.members or self._joining):
                self._over = True
                self._changed.set()
                self._ending.set()
                return
            if shown != set(self.members):
                shown = set(self.members)
                await self._in_database(self.turn.show_running)
            self._changed.set()  # the size of the window may have changed
            await asyncio.sleep(SOONEST_SECONDS)

    async def _see_to(self, member: Member) -> None:
        """Let a batch leave whose time has come."""
        if (error := member.trouble) is not None:
            await self._leave(member, partial(containment.handle, error, member.batch, self.turn.gpu.worker))
        elif member.closed:
            await self._leave(member, partial(self.turn.let_go, member, RunEnd.CLOSED))
        elif member.is_done:
            await self._leave(member, partial(self.turn.let_go, member, RunEnd.DONE))
        elif (end := member.end) and not (member.in_flight and time.monotonic() < member.drained_by):
            await self._leave(member, partial(self.turn.let_go, member, end))

    async def _leave(self, member: Member, statement: Callable[[], None]) -> None:
        """Abort what it has in flight, commit its last answers, and do the statement."""
        entry = self._part(member)
        if entry.outcomes:
            await self._in_database(lambda: commit.commit_all(self.turn.worker, [entry]))
        await self._in_database(statement)
        for kind in [kind for kind in self._kinds.values() if not self._needs(kind)]:
            await self._in_database(partial(self._record, kind))

    def _part(self, member: Member) -> commit.Entry:
        """Take a batch out of the turn. Returns what is to be committed of it."""
        del self.members[member.batch.pk]
        entry = member.take()
        self.client.abort(member.in_flight.values())
        for sent in member.in_flight.values():
            sent.tally.aborted(sent.row.id)
        self._in_flight -= len(member.in_flight)
        member.in_flight.clear()
        member.close()
        self._share.look_anew()
        self._changed.set()
        return entry

    async def _flush(self) -> None:
        """Commit the answers so far, and look at every batch."""
        now = time.monotonic()
        due = [one for one in self.members.values() if one.outcomes or now - one.renewed > RENEW_SECONDS]
        others = [pk for pk, member in self.members.items() if member not in due]
        entries, self._bytes = [member.take() for member in due], 0
        worker = self.turn.worker
        signals = await self._in_database(lambda: commit.commit_all(worker, entries) | commit.look(others, worker))
        self._room.set()
        for pk, signal in signals.items():
            member = self.members.get(pk)
            if member is None:
                continue
            if signal.lost:
                await self._leave(member, partial(claims.note_lost_lease, member.batch, self.turn.gpu.worker))
                continue
            if (member.priority, member.late) != (signal.priority, signal.late):
                member.priority, member.late = signal.priority, signal.late
                self._share.look_anew()
            member.closed = signal.closed

    # Measurements

    def _kind(self, model: Model, endpoint: str) -> "Kind":
        if (found := self._kinds.get((model.pk, endpoint))) is None:
            found = Kind(model, endpoint, measurements.Tally(self._on_engine))
            self._kinds[model.pk, endpoint] = found
        return found

    def _needs(self, kind: "Kind") -> bool:
        return any(
            kind.model == segment.model and kind.endpoint == member.batch.endpoint
            for member in self.members.values()
            for segment in member.segments
        )

    def _record(self, kind: "Kind") -> None:
        """Record how fast these requests were, and begin anew."""
        del self._kinds[kind.model.pk, kind.endpoint]
        batch = next(iter(kind.batches)) if len(kind.batches) == 1 else ""
        measurements.record_turn(kind.model, self.engine, kind.tally, batch, kind.endpoint)

    # Threads

    async def _in_database(self, statement: Callable[[], T]) -> T:
        """Run the statement in the database's thread. While the database cannot be reached, it is tried again."""
        return await asyncio.get_running_loop().run_in_executor(self._database, insist, statement, OUTAGE_SECONDS)

    async def _join(self, step: Callable[[], T]) -> T | None:
        """Do this in the thread that takes batches in. None when the database cannot be reached: it is done again."""

        def guarded() -> T | None:
            try:
                return step()
            except DATABASE_ERRORS as error:
                connection.close()
                log.warning(
                    "Queue: no further batch is taken in now, because the database failed: %s", first_line(error)
                )
                return None

        return await asyncio.get_running_loop().run_in_executor(self._joiner, guarded)
