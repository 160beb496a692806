"""Sends calls to an engine, with a bounded number in flight, without barriers, and with retries.

Calls come out of an async iterator and answers go into another, in the order in which they finish. It does not know
what a batch is. The calls of a remote model go to its addresses (`pool`), each attempt to another where there are some.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp

from models_registry.engine import error_bodies
from models_registry.engine.control import is_healthy
from models_registry.engine.error_bodies import PATIENCE, clean
from models_registry.engine.log_reasons import of_request
from models_registry.engine.remote.pool import PROBE_SECONDS, Pool, PoolAddress, retry_after
from models_registry.engine.remote.servers import is_welcome
from models_registry.engine.server import Engine
from models_registry.engine.spec import Address
from models_registry.engine.watch import liveness
from vbs.outgoing import client

log = logging.getLogger(__name__)

BACKOFF_SECONDS = 0.5
BACKOFF_MOST = 30.0
BACKOFF_POOL = 2.0  # at most, where the pool holds back an address that fails
# Why an address of a pool is tried again only after a while, by the error's code, in words that everybody may read.
LOST = {
    "connection_lost": "the connection was lost",
    "request_timeout": "it answered nothing in time",
}
ELSEWHERE = {401, 403, 404}  # statuses that another address of the model may not give
LARGE = 4 * 2**20  # bytes; an answer with more is large
LARGE_AT_ONCE = 4  # large answers that are in memory at once
MOST_TOLD = 20  # failures that are logged
DEATH_SECONDS = 2.0  # after a broken connection, the time in which a dying engine is seen to be dead


@dataclass(slots=True)
class Call:
    """A request on its way to an engine.

    key: identifies the call to the caller, and is hashable. path: below the engine's `/v1`, such as
    `/chat/completions`. request_id: the id that the engine gets, and writes into its log.
    """

    key: Any
    path: str
    body: bytes
    request_id: str = ""


@dataclass(slots=True)
class Answer:
    """What came of a call: an HTTP status with its body, or an error code and message of ours.

    kind: the body's content type. reason: for a failure, what the engine's log says about it. remedy: what the
    operators do where a remote server refuses our key. sent: bytes of the call, only for a remote server, whose counts
    of tokens are checked against it; None for our own engines.
    """

    key: Any
    status: int | None
    body: bytes
    request_id: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    kind: str = ""
    reason: str | None = None
    remedy: str | None = None
    sent: int | None = None


class AnswerTooLarge(Exception):
    """An answer with more bytes than it may have."""


class EngineDied(Exception):
    """The engine's process has ended. how: in words. in_flight: keys of the calls that were sent and not answered."""

    def __init__(self, in_flight: list[Any], how: str = "") -> None:
        super().__init__(f"the engine died with {len(in_flight)} requests in flight" + (f": {how}" if how else ""))
        self.in_flight, self.how = in_flight, how


@dataclass(frozen=True)
class Limits:
    """What a call may take. seconds: for one attempt. attempts: how often it is sent, after 5xx, 429 or a lost
    connection. most_bytes: of an answer's body. patience: seconds for which it may wait in all for a remote server that
    is away or asks for patience (429, or Retry-After), which do not count as attempts."""

    seconds: float = 3600
    attempts: int = 4
    most_bytes: int = 64 * 2**20
    patience: float = float("inf")


def open_session(address: Address, private: bool, limit: int, seconds: float) -> aiohttp.ClientSession:
    """For requests to an engine: on its socket, or to its servers through the guarded connector. Each request needs the
    `authorization` of its address.

    limit: connections at once, 0 for any number. seconds: for one request; 0 sets no limit.
    """
    connector: aiohttp.BaseConnector
    if address.socket:
        connector = aiohttp.UnixConnector(address.socket, limit=limit)
    else:
        connector = client.connector(private, limit=limit)
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    return aiohttp.ClientSession(
        connector=connector,
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=seconds or None),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


class Client:
    """Sends the calls of one run. in_flight: those that were sent and not answered."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine = engine
        self.limits = limits
        self.in_flight: dict[Any, Call] = {}
        self._tasks: dict[Any, asyncio.Task[None]] = {}
        self._told = 0

    async def answers(self, calls: AsyncIterator[Call], window: int) -> AsyncGenerator[Answer, None]:
        """Yields the answer of every call that is not aborted. At most `window` calls are in flight, or answered and
        not read yet.

        Raises EngineDied. Closing the iterator aborts what is in flight.
        """
        ready: asyncio.Queue[Answer | BaseException | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(LARGE_AT_ONCE)
        self._places = asyncio.Semaphore(window)
        if self.engine.pool:
            self.engine.pool.begin()
        async with self._session(window) as session:
            sender = asyncio.create_task(self._send(session, calls, ready))
            watch = asyncio.create_task(self._watch(session, ready))
            try:
                while (item := await ready.get()) is not None:
                    if isinstance(item, BaseException):
                        raise item
                    self._places.release()
                    yield item
                    self._took(item)
            finally:
                running = [sender, watch, *self._tasks.values()]
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    def abort(self, keys: Iterable[Any]) -> None:
        """Abort the calls with these keys that are in flight; the engine stops to compute them. They get no answer."""
        for key in keys:
            if (task := self._tasks.get(key)) is not None:
                task.cancel()

    @asynccontextmanager
    async def _session(self, window: int) -> AsyncIterator[aiohttp.ClientSession]:
        probes = len(self.engine.pool.addresses) if self.engine.pool else 0
        limit = window + probes if probes else window
        async with open_session(self.engine.address, self.engine.spec.private, limit, self.limits.seconds) as session:
            yield session

    async def _watch(self, session: aiohttp.ClientSession, ready: asyncio.Queue[Any]) -> None:
        if self.engine.pool:
            watches = [self.engine.pool.watch(lambda address: self._probe(session, address))]
        else:
            watches = [self.engine.death(), liveness.until_silent(self.engine, lambda: self.in_flight)]
        ends = [asyncio.create_task(one) for one in watches]
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            in_flight = [call.key for call in self.in_flight.values()]
            await ready.put(EngineDied(in_flight, await asyncio.to_thread(self.engine.ending)))
        except Exception as error:
            await ready.put(error)
        finally:
            for task in ends:
                task.cancel()

    async def _send(
        self, session: aiohttp.ClientSession, calls: AsyncIterator[Call], ready: asyncio.Queue[Any]
    ) -> None:
        """Sends each call in a task of its own, and says when all of them have ended."""
        try:
            while True:
                await self._places.acquire()
                call = await anext(calls, None)
                if call is None:
                    break
                self.in_flight[call.key] = call
                self._tasks[call.key] = task = asyncio.create_task(self._one(session, call, ready))
                task.add_done_callback(partial(self._ended, call, ready))
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            ready.put_nowait(None)
        except Exception as error:
            ready.put_nowait(error)

    async def _one(self, session: aiohttp.ClientSession, call: Call, ready: asyncio.Queue[Any]) -> None:
        answer = await self._answer(session, call)
        del self.in_flight[call.key]
        ready.put_nowait(answer)

    def _ended(self, call: Call, ready: asyncio.Queue[Any], task: asyncio.Task[None]) -> None:
        del self._tasks[call.key]
        if task.cancelled():
            self.in_flight.pop(call.key, None)
            self._places.release()
        elif error := task.exception():
            ready.put_nowait(error)

    async def _answer(self, session: aiohttp.ClientSession, call: Call) -> Answer:
        """Send the call until there is a final answer."""
        if self.engine.pool:
            answer, attempts = await self._answer_of_pool(session, call, self.engine.pool)
        else:
            answer, attempts = await self._answer_of_engine(session, call)
        if not _may_pass(answer):
            return answer
        if self.engine.log and answer.status and call.request_id:
            answer.reason = await asyncio.to_thread(of_request, self.engine.log, call.request_id)
        self._tell(answer, attempts)
        return answer

    async def _answer_of_engine(self, session: aiohttp.ClientSession, call: Call) -> tuple[Answer, int]:
        """The final answer of a local engine, and how often the call was sent.

        A failure that may pass is tried again. It is final when the same failure comes a second time, whatever else
        failed in between, and the engine is healthy; or when all attempts are used up.
        """
        failures: list[Answer] = []
        attempt = 0
        while True:
            attempt += 1
            answer, wait = await self._attempt(session, call, self.engine.address)
            if not _may_pass(answer) or attempt == self.limits.attempts:
                return answer, attempt
            if any(_same(before, answer) for before in failures) and await self._healthy():
                return answer, attempt
            failures.append(answer)
            self._took(answer)
            await asyncio.sleep(min(BACKOFF_MOST, max(wait or 0.0, _backoff(attempt))))

    async def _answer_of_pool(self, session: aiohttp.ClientSession, call: Call, pool: Pool) -> tuple[Answer, int]:
        """The same of a remote model, each attempt at another address where there is one.

        A server that asks for patience gets it: 429, and 503 with Retry-After, do not count as attempts.
        """
        failures: list[Answer] = []
        refused: list[PoolAddress] = []  # those that did not take the call, which others may
        attempts = refusals = 0
        last: Answer | None = None
        place: PoolAddress | None = None
        until = time.monotonic() + self.limits.patience
        while True:
            place = await pool.take([*refused, *([place] if place else [])], until - time.monotonic())
            if place is None:
                message = f"The model's server is away: {pool.why or 'it has no free place'}."
                away = Answer(call.key, None, b"", call.request_id, "connection_lost", message)
                return last or away, attempts + refusals
            answer, wait = await self._attempt_at(place, session, call, last=attempts + 1 >= self.limits.attempts)
            if not _may_pass(answer):
                refused.append(place)
                if _of_address(answer) and pool.others(*refused):
                    self._took(answer)
                    continue
                return answer, attempts + refusals + 1
            last = answer
            if _asks_for_patience(answer, wait):
                refusals += 1
                final = time.monotonic() > until
            else:
                attempts += 1
                final = attempts >= self.limits.attempts or any(_same(before, answer) for before in failures)
                failures.append(answer)
            if final:
                return answer, attempts + refusals
            self._took(answer)
            if not pool.others(place):
                await asyncio.sleep(min(BACKOFF_POOL, _backoff(attempts + refusals)))

    async def _attempt_at(
        self, place: PoolAddress, session: aiohttp.ClientSession, call: Call, last: bool
    ) -> tuple[Answer, float | None]:
        """Send the call once to this address, which was taken for it, and tell it what came of that.

        last: there is no other attempt, so only VBS_REQUEST_SECONDS ends it, however long others take.
        """
        pool, sent_at, wait = self.engine.pool, time.monotonic(), None
        assert pool is not None
        try:
            async with asyncio.timeout(None) as timer:
                with place.using(timer, float("inf") if last else sent_at):
                    answer, wait = await self._attempt(session, call, place.address)
        except TimeoutError:
            message = f"The model's server gave no answer for {time.monotonic() - sent_at:.0f} s, while others did."
            answer = Answer(call.key, None, b"", call.request_id, "connection_lost", message)
        finally:
            pool.give_back(place)
        if answer.status is None and answer.error_code in LOST:
            place.lose(sent_at, LOST[answer.error_code])
        elif answer.status in PATIENCE:
            place.busy(sent_at, answer.status, wait)
        else:
            well = answer.status is not None and answer.status < 500
            if answer.status in (401, 403):
                answer.remedy = error_bodies.key_refused(answer.status, sent=bool(place.address.key))
            place.answered(sent_at, well)
            if well:
                pool.took(time.monotonic() - sent_at)
                pool.refusal = (answer.remedy or "") if answer.status == 401 else ""
        pool.changed()
        return answer, wait

    async def _probe(self, session: aiohttp.ClientSession, address: Address) -> bool:
        """Does the server at this address answer when it is asked for its models?"""
        try:
            async with session.get(
                f"{address.url}/models",
                headers=authorization(address),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=PROBE_SECONDS),
            ) as response:
                return is_welcome(response.status)
        except (aiohttp.ClientError, client.AddressError, OSError):
            return False

    async def _attempt(
        self, session: aiohttp.ClientSession, call: Call, address: Address
    ) -> tuple[Answer, float | None]:
        """Send the call once. Returns the answer, and how many seconds the server asks us to wait."""
        url = address.url + call.path
        named = authorization(address) | ({"X-Request-Id": call.request_id} if call.request_id else {})
        # Without its address: people may use a model and yet not be allowed to know where it is.
        where = "the model's server" if self.engine.pid is None else "the engine"

        def none(code: str, message: str) -> tuple[Answer, None]:
            return Answer(call.key, None, b"", call.request_id, code, message), None

        try:
            async with session.post(url, data=call.body, headers=named, allow_redirects=False) as response:
                if coding := response.headers.get("Content-Encoding"):
                    said = clean(coding, 50)
                    return none(
                        "invalid_response", f"The answer of {where} is compressed ({said}): it was asked not to."
                    )
                body = await self._read(response)
                if response.status >= 400:
                    body = error_bodies.without(body, address.key)
                kind = response.headers.get("Content-Type", "")
                sent = len(call.body) if self.engine.pid is None else None
                answer = Answer(call.key, response.status, body, call.request_id, kind=kind, sent=sent)
                return answer, retry_after(response.headers.get("Retry-After", ""))
        except AnswerTooLarge:
            most = self.limits.most_bytes
            return none("response_too_large", f"The answer has more than {most:,} bytes (VBS_MAX_ANSWER_MB).")
        except TimeoutError:
            return none("request_timeout", f"No answer within {self.limits.seconds:.0f} s (VBS_REQUEST_SECONDS).")
        except client.AddressError as error:
            log.warning("Request %s: it was not sent: %s", call.request_id, error)
            return none("address_refused", f"The request was not sent, because {where} has no public address.")
        except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as error:
            await self._unless_dead()
            said = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
            return none(
                "connection_lost", f"The answer of {where} cannot be read: {clean(' '.join(said.split()), 200)}"
            )
        except (aiohttp.ClientError, OSError) as error:
            await self._unless_dead()
            return none("connection_lost", f"The connection to {where} was lost: {type(error).__name__}.")

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Read the body. Only a few large ones are read at once; the others wait. Raises AnswerTooLarge."""
        length = response.content_length
        if length is not None and length <= LARGE:
            return await response.read()
        if length is not None and length > self.limits.most_bytes:
            raise AnswerTooLarge
        content, held = bytearray(), False
        try:
            async for piece in response.content.iter_any():
                content += piece
                if len(content) > self.limits.most_bytes:
                    raise AnswerTooLarge
                if len(content) > LARGE and not held:
                    held = await self._room.acquire()
        except BaseException:
            if held:
                self._room.release()
            raise
        return bytes(content)

    def _took(self, answer: Answer) -> None:
        """The caller has taken this answer; if it was large, another large one may be read."""
        if len(answer.body) > LARGE:
            self._room.release()

    async def _healthy(self) -> bool:
        """Is the engine healthy, so that the request itself fails?"""
        return await asyncio.to_thread(is_healthy, self.engine.address)

    def _tell(self, answer: Answer, attempts: int) -> None:
        self._told += 1
        if self._told <= MOST_TOLD:
            said = (
                answer.error_message
                or f"status {answer.status}, {error_bodies.message_of(answer.status or 0, answer.body)}"
            )
            why = f" ({answer.reason})" if answer.reason else ""
            log.warning("Request %s: it failed after %d attempts: %s%s", answer.request_id, attempts, said, why)
        if self._told == MOST_TOLD:
            log.warning("Further requests that fail are not logged")

    async def _unless_dead(self) -> None:
        """After a broken connection: if the engine is dying, wait to be aborted instead of trying again."""
        if self.engine.pool:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(DEATH_SECONDS):
                await self.engine.death()
            await asyncio.Event().wait()


def authorization(address: Address) -> dict[str, str]:
    return {"Authorization": f"Bearer {address.key}"} if address.key else {}


def _backoff(attempt: int) -> float:
    return min(BACKOFF_MOST, BACKOFF_SECONDS * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5)


def _asks_for_patience(answer: Answer, wait: float | None) -> bool:
    return answer.status == 429 or (answer.status in PATIENCE and wait is not None)


def _may_pass(answer: Answer) -> bool:
    if answer.status is None:
        return answer.error_code in ("request_timeout", "connection_lost")
    return answer.status >= 500 or answer.status in PATIENCE


def _of_address(answer: Answer) -> bool:
    """Is this a failure that another address of the model may not have, because it is set up otherwise?"""
    return answer.status in ELSEWHERE or answer.error_code == "address_refused"


def _same(before: Answer, now: Answer) -> bool:
    """Is this the same failure again, and one that the request causes? A lost connection or a busy server is not."""
    if before.status is None or now.status is None:
        return before.error_code == now.error_code == "request_timeout"
    if before.status != now.status or now.status in PATIENCE:
        return False
    return error_bodies.message_of(before.status, before.body) == error_bodies.message_of(now.status, now.body)
