"""Send requests to an engine: a bounded window in flight, without barriers, with retries.

Knows nothing of batches: calls come out of an async iterator and answers go into one, in the order they finish.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

from models_registry.engine import pulse
from models_registry.engine.server import Engine
from vbs import outgoing

BACKOFF_SECONDS = 0.5
BACKOFF_MOST = 30.0
DEATH_SECONDS = 2.0  # how long after a broken connection the engine may take to be seen dead


@dataclass(slots=True)
class Call:
    """path: below the engine's `/v1`, e.g. `/chat/completions`. key: whatever the caller knows it by."""

    key: Any
    path: str
    body: bytes


@dataclass(slots=True)
class Answer:
    """What came of a call. Either an HTTP status with its body, or an error code and message in our words."""

    key: Any
    status: int | None
    body: bytes
    request_id: str | None = None
    error_code: str | None = None
    error_message: str | None = None


class EngineDied(Exception):
    """The engine's process ended; `how`, in words. in_flight: the keys of the calls that were sent and not answered."""

    def __init__(self, in_flight: list[Any], how: str = "") -> None:
        super().__init__(f"the engine died with {len(in_flight)} requests in flight" + (f": {how}" if how else ""))
        self.in_flight, self.how = in_flight, how


@dataclass(frozen=True)
class Limits:
    """seconds: for one attempt. attempts: how often a call is sent at most, after 5xx, 429 or a lost connection."""

    seconds: float = 3600
    attempts: int = 4


class Client:
    """The calls of one run. `in_flight` is what has been sent and not answered."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine = engine
        self.limits = limits
        self.in_flight: dict[int, Call] = {}

    async def answers(self, calls: AsyncIterator[Call], window: int) -> AsyncGenerator[Answer, None]:
        """Every call's answer. At most `window` are in flight, and as many answers wait for the caller.

        Raises EngineDied. Closing the iterator aborts what is in flight.
        """
        ready: asyncio.Queue[Answer | BaseException | None] = asyncio.Queue(maxsize=window)
        async with self._session(window) as session:
            group = asyncio.create_task(self._lanes(session, calls, window, ready))
            watch = asyncio.create_task(self._watch(ready))
            try:
                while (item := await ready.get()) is not None:
                    if isinstance(item, BaseException):
                        raise item
                    yield item
            finally:
                for task in (group, watch):
                    task.cancel()
                await asyncio.gather(group, watch, return_exceptions=True)

    @asynccontextmanager
    async def _session(self, window: int) -> AsyncIterator[aiohttp.ClientSession]:
        address = self.engine.address
        connector: aiohttp.BaseConnector
        if address.socket:
            connector = aiohttp.UnixConnector(address.socket, limit=window)
        else:
            connector = outgoing.connector(self.engine.spec.private, limit=window)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if address.key:
            headers["Authorization"] = f"Bearer {address.key}"
        timeout = aiohttp.ClientTimeout(total=self.limits.seconds)
        async with aiohttp.ClientSession(
            connector=connector,
            headers=headers,
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        ) as session:
            yield session

    async def _watch(self, ready: asyncio.Queue[Any]) -> None:
        ends = [
            asyncio.create_task(one)
            for one in (self.engine.death(), pulse.silence(self.engine, lambda: self.in_flight))
        ]
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

    async def _lanes(
        self, session: aiohttp.ClientSession, calls: AsyncIterator[Call], window: int, ready: asyncio.Queue[Any]
    ) -> None:
        """`window` lanes, each with one call at a time; they share the calls."""
        turn = asyncio.Lock()

        async def lane() -> None:
            while True:
                async with turn:
                    call = await anext(calls, None)
                if call is None:
                    return
                self.in_flight[id(call)] = call
                answer = await self._answer(session, call)
                del self.in_flight[id(call)]
                await ready.put(answer)

        lanes = [asyncio.create_task(lane()) for _ in range(window)]
        try:
            await asyncio.gather(*lanes)
            await ready.put(None)
        except Exception as error:
            await ready.put(error)
        finally:
            for task in lanes:
                task.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _answer(self, session: aiohttp.ClientSession, call: Call) -> Answer:
        url = self.engine.address.url + call.path
        for attempt in range(1, self.limits.attempts + 1):
            wait = 0.0
            try:
                async with session.post(url, data=call.body, allow_redirects=False) as response:
                    body = await response.read()
                    answer = Answer(call.key, response.status, body, response.headers.get("X-Request-Id"))
                    if response.status < 500 and response.status not in (408, 425, 429):
                        return answer
                    with suppress(ValueError):
                        wait = float(response.headers.get("Retry-After", 0))
            except TimeoutError:
                message = f"No answer within {self.limits.seconds:.0f} s (VBS_REQUEST_SECONDS)."
                answer = Answer(call.key, None, b"", None, "request_timeout", message)
            except outgoing.AddressError as error:
                return Answer(call.key, None, b"", None, "address_refused", f"The request was not sent: {error}.")
            except (aiohttp.ClientError, OSError) as error:
                await self._unless_dead()
                where = self.engine.address.url if self.engine.pid is None else "the engine"
                message = f"The connection to {where} was lost: {type(error).__name__}."
                answer = Answer(call.key, None, b"", None, "connection_lost", message)
            if attempt < self.limits.attempts:
                backoff = min(BACKOFF_MOST, BACKOFF_SECONDS * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5)
                await asyncio.sleep(min(BACKOFF_MOST, max(wait, backoff)))
        return answer

    async def _unless_dead(self) -> None:
        """A connection broke: if that is because the engine is dying, wait to be aborted rather than try again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DEATH_SECONDS):
                await self.engine.death()
            await asyncio.Event().wait()
