"""The addresses of a remote model: which of them gets the next call, and how many calls each has at once.

Each address has a limit of its own, found as TCP finds its window: it doubles with each round trip until something was
too much, then grows by one a round trip; it halves, once a round trip at most, when the server there is busy or lost,
and shrinks a little when answers take far longer than its own best. A server that asks for patience is left alone for
so long. One that was lost is asked for its models first, then gets a single call, and soon as many as it had before.

It does not know what a call is, and nothing of HTTP but statuses.
"""

import asyncio
import enum
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

from models_registry.engine.spec import Address

START = 16  # calls at once at an address, to begin with
MOST = 256  # calls at once at an address
HOLD_SECONDS = 0.5  # for which an address gets no calls after its first failure in a row; it doubles with each
HOLD_MOST = 30.0
MOST_ASKED = 3600.0  # seconds of a Retry-After that are believed
LOOK_SECONDS = 0.2
QUIET_SECONDS = 10.0  # without an answer, until a server with calls in flight is asked whether it is there
PROBE_SECONDS = 5.0  # for its answer to that
PROBES = 2  # in a row that have to fail
SLOW_SECONDS = 60.0  # the least limit of time that is shorter than VBS_REQUEST_SECONDS
SLOW = 4.0  # times the slowest answers so far, after which a call is tried elsewhere
ANSWERS = 20  # that have to be known for that
FAR_ABOVE = 4.0  # times the best latency, above which a limit shrinks
SHRINK = 0.9
SHRINKS = 3  # after so many that changed nothing the latency is not ours, but that of other requests


class AddressState(enum.StrEnum):
    OPEN = "open"  # it gets calls, up to its limit
    HELD = "held"  # it gets none for a while, because it is busy
    LOST = "lost"  # it gets none until it has answered a look at its models
    TRIAL = "trial"  # it gets one call, whose answer opens it


@dataclass(frozen=True)
class AddressReading:
    """An address as pages show it. until: seconds since 1970, while it gets no calls."""

    url: str
    limit: int
    in_flight: int
    state: str
    why: str
    until: float | None


class PoolAddress:
    """One address with its limit. Times are those of the monotonic clock."""

    def __init__(self, address: Address, most: int = MOST) -> None:
        self.address, self.most = address, most
        self.limit = float(min(START, most))
        self.in_flight = 0
        self.state = AddressState.OPEN
        self.why = ""  # in words that everybody may read: no address
        self.until = 0.0  # while it is held or lost
        self.heard_at = 0.0
        self._asked = False  # it is held because the server asked for it
        self._doubles_to = float(most)  # the limit up to which it doubles with each round trip
        self._cut_at = float("-inf")
        self._failures = 0  # in a row
        self._timers: dict[asyncio.Timeout, float] = {}  # of the calls in flight, with when they were sent
        self._round = self.limit  # answers in this round trip
        self._peak = 0  # the most calls in flight in it
        self._count, self._sum = 0, 0.0  # of those so far
        self._best = float("inf")  # mean latency of a round trip
        self._shrinks, self._shrunk_at = 0, 0.0  # mean latency at the first of these

    def reading(self) -> AddressReading:
        now = time.monotonic()
        until = time.time() + self.until - now if self.shut(now) else None
        why = "" if self.state is AddressState.OPEN else self.why
        return AddressReading(self.address.url, int(self.limit), self.in_flight, self.state.value, why, until)

    def shut(self, now: float) -> bool:
        """Does it get no calls at present?"""
        if self.state is AddressState.HELD and now >= self.until:
            self._leave_hold()
        return self.state in (AddressState.HELD, AddressState.LOST)

    def free(self, now: float) -> int:
        """How many more calls it may get."""
        if self.shut(now):
            return 0
        return (1 if self.state is AddressState.TRIAL else int(self.limit)) - self.in_flight

    def count(self) -> None:
        """One more call goes there. The limit grows only while that many are in flight, because otherwise it is the
        lack of calls that keeps them few."""
        self.in_flight += 1
        self._peak = max(self._peak, self.in_flight)

    @contextmanager
    def using(self, timer: asyncio.Timeout, sent_at: float) -> Iterator[None]:
        """A call is in flight here. It was counted when this address was taken; the timer ends it early."""
        self._timers[timer] = sent_at
        try:
            yield
        finally:
            del self._timers[timer]

    # What came of a call that was sent at this time

    def answered(self, sent_at: float, well: bool = True) -> None:
        """It has answered. well: not with an error of the server."""
        now = self.heard_at = time.monotonic()
        self._failures = 0
        if not (self.state is AddressState.HELD and self._asked):
            self.state = AddressState.OPEN
        if well:
            if self.limit < self._doubles_to and self.limit < 2 * self._peak:
                self.limit = min(self.most, self.limit + 1)
            elif self._peak >= int(self.limit):
                self.limit = min(self.most, self.limit + 1 / self.limit)
            self._follow_latency(now - sent_at)

    def busy(self, sent_at: float, status: int, asked: float | None) -> None:
        """It wants fewer requests. asked: for so many seconds it wants none."""
        self.heard_at = time.monotonic()
        before, is_first = self.limit, not self._failures
        if self._cut(sent_at) and is_first:
            self._doubles_to = before / 2
        why = f"it answered {status}"
        if asked is not None:
            self._hold(AddressState.HELD, min(asked, MOST_ASKED), f"{why} and asked for patience", asked=True)
        elif self._failures > 1 and status != 429:
            self._hold(AddressState.LOST, self._pause(), why)
        else:
            self._hold(AddressState.HELD, self._pause(), why)

    def lose(self, sent_at: float, why: str) -> None:
        """It has not answered. What it has borne before is found again soon."""
        before = self.limit
        if self._cut(sent_at):
            self._doubles_to = max(self._doubles_to, before) if self._doubles_to < self.most else before
        self._hold(AddressState.LOST, self._pause(), self.why if self.state is AddressState.LOST else why)

    # What a look at its models showed

    def heard(self) -> None:
        """It answers again, so it gets one call."""
        self.heard_at = time.monotonic()
        if self.state is AddressState.LOST:
            self._failures = min(self._failures, 1)  # it is there; what fails now is due to the call
            self.state = AddressState.TRIAL

    def unheard(self, why: str) -> None:
        """It does not answer."""
        self._failures += 1
        self._hold(AddressState.LOST, self._pause(), why)

    def abort(self, before: float) -> None:
        """End the calls in flight here that were sent before this time, so that they are tried elsewhere."""
        now = asyncio.get_running_loop().time()
        for timer, sent_at in self._timers.items():
            if sent_at < before and timer.when() is None:
                timer.reschedule(now)

    def _cut(self, sent_at: float) -> bool:
        """Halve the limit, if this call was sent after it was halved last."""
        if sent_at < self._cut_at:
            return False
        self._cut_at = time.monotonic()
        self._failures += 1
        self.limit = max(1.0, self.limit / 2)
        return True

    def _hold(self, state: AddressState, seconds: float, why: str, asked: bool = False) -> None:
        until = time.monotonic() + seconds
        if self.state is AddressState.HELD and self._asked and not asked:
            until = max(until, self.until)
            asked = state is AddressState.HELD
        self.state, self.until, self.why, self._asked = state, until, why, asked

    def _leave_hold(self) -> None:
        self.state = AddressState.TRIAL if self._failures > 1 else AddressState.OPEN

    def _pause(self) -> float:
        return min(HOLD_MOST, HOLD_SECONDS * 2 ** min(self._failures - 1, 16)) * random.uniform(0.5, 1.0)

    def _follow_latency(self, seconds: float) -> None:
        """Once a round trip: shrink the limit when answers take far longer than at best."""
        self._count, self._sum = self._count + 1, self._sum + seconds
        if self._count < self._round:
            return
        mean = self._sum / self._count
        self._round, self._count, self._sum, self._peak = self.limit, 0, 0.0, self.in_flight
        self._best = min(self._best * 1.05, mean)  # what was best long ago may have been other requests
        if mean <= FAR_ABOVE * self._best or self.limit <= START:
            self._shrinks = 0
            return
        self._shrunk_at = mean if not self._shrinks else self._shrunk_at
        self._shrinks += 1
        if self._shrinks > SHRINKS and mean > SHRINK * self._shrunk_at:
            self._best, self._shrinks = mean / 2, 0
        else:
            self.limit, self._doubles_to = max(float(START), self.limit * SHRINK), 0.0


class Pool:
    """The addresses of one engine. It is used on one event loop at a time."""

    def __init__(self, addresses: Sequence[Address], most: int = MOST) -> None:
        self.addresses = [PoolAddress(one, most) for one in addresses]
        self.answered = 0
        self.refusal = ""  # what to do where the last answer refused our key
        self._slowest = 0.0  # seconds of an answer; it decays
        self._mean = 0.0
        self._changed = asyncio.Event()

    def begin(self) -> None:
        """Before it is used on another event loop."""
        self._changed = asyncio.Event()

    @property
    def size(self) -> int:
        """How many calls can be in flight now; at least one, which then waits here."""
        now = time.monotonic()
        return max(1, sum(one.in_flight + max(0, one.free(now)) for one in self.addresses if not one.shut(now)))

    @property
    def most(self) -> int:
        return sum(one.most for one in self.addresses)

    @property
    def why(self) -> str:
        """Why no call is sent at present; empty while one is."""
        now = time.monotonic()
        shut = [one for one in self.addresses if one.shut(now)]
        return min(shut, key=lambda one: one.until).why if len(shut) == len(self.addresses) else ""

    @property
    def is_lost(self) -> bool:
        """Does none of the addresses answer? One that is busy does."""
        return all(one.state is AddressState.LOST for one in self.addresses)

    def others(self, *than: PoolAddress) -> bool:
        """Is there another address that gets calls?"""
        now = time.monotonic()
        return any(one not in than and not one.shut(now) for one in self.addresses)

    async def take(self, avoid: Sequence[PoolAddress] = (), seconds: float = float("inf")) -> PoolAddress | None:
        """The address for a call: of those that get calls the one with the most free places. None after so many
        seconds without one.

        avoid: where the call has failed; they are taken only when no other gets calls.
        """
        began = time.monotonic()
        while (found := self._best(avoid)) is None:
            now = time.monotonic()
            if now - began >= seconds:
                return None
            ends = [one.until - now for one in self.addresses if one.state is AddressState.HELD]
            self._changed.clear()
            try:
                async with asyncio.timeout(max(0.001, min([*ends, seconds - (now - began), LOOK_SECONDS * 5]))):
                    await self._changed.wait()
            except TimeoutError:
                continue
        if not found.in_flight:
            found.heard_at = time.monotonic()  # from now on it is quiet
        found.count()
        return found

    def give_back(self, one: PoolAddress) -> None:
        one.in_flight -= 1
        self.changed()

    def changed(self) -> None:
        """Let those look again who wait for an address."""
        self._changed.set()

    def took(self, seconds: float) -> None:
        """A call was answered within so many seconds."""
        self.answered += 1
        self._slowest = max(seconds, self._slowest * 0.999)
        self._mean += (seconds - self._mean) / min(self.answered, 100)

    def seconds(self, one: PoolAddress) -> float:
        """How long a call may take there before it is tried elsewhere, where answers have come faster."""
        if self.answered < ANSWERS or not self.others(one):
            return float("inf")
        return max(SLOW_SECONDS, SLOW * self._slowest)

    async def watch(self, probe: Callable[[Address], Awaitable[bool]]) -> None:
        """Look after the addresses while calls are sent, until it is cancelled. probe: does the server answer?"""
        async with asyncio.TaskGroup() as group:
            for one in self.addresses:
                group.create_task(self._look_after(one, probe))

    async def _look_after(self, one: PoolAddress, probe: Callable[[Address], Awaitable[bool]]) -> None:
        failed = 0
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            one.abort(before=now - self.seconds(one))
            if one.state is AddressState.LOST and now >= one.until:
                if await probe(one.address):
                    one.heard()
                    self.changed()
                elif one.state is AddressState.LOST:
                    one.unheard(one.why)
            elif one.state is not AddressState.LOST and one.in_flight and now - one.heard_at > self._quiet():
                if await probe(one.address):
                    failed, one.heard_at = 0, time.monotonic()
                    continue
                failed += 1
                if failed >= PROBES and one.heard_at < now:
                    failed = 0
                    one.unheard("it gives no sign of life")
                    if self.others(one):
                        one.abort(before=float("inf"))
                    self.changed()
            else:
                failed = 0

    def _quiet(self) -> float:
        return max(QUIET_SECONDS, 2 * self._mean)

    def _best(self, avoid: Sequence[PoolAddress]) -> PoolAddress | None:
        now = time.monotonic()
        elsewhere = [one for one in self.addresses if one not in avoid and not one.shut(now)]
        free = [one for one in elsewhere or self.addresses if one.free(now) > 0]
        return max(free, key=lambda one: one.free(now), default=None)

    def reading(self) -> list[AddressReading]:
        return [one.reading() for one in self.addresses]


def retry_after(value: str, now: Callable[[], float] = time.time) -> float | None:
    """The seconds that a Retry-After asks for, in either of its forms; None when it is not there or makes no sense."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:10]), MOST_ASKED)
    try:
        at = parsedate_to_datetime(text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        return min(max(0.0, at.timestamp() - now()), MOST_ASKED)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
