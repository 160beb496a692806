"""The window of an engine, which is how many requests it gets at once, and what each request may take.

That of a local engine starts at what suits `max-num-seqs`, and follows the engine's own figures from there (`Sizing`).
That of a remote one is what its addresses bear, which follows their answers (`models_registry.engine.remote.pool`).
"""

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import psutil
from django.conf import settings
from django.utils import timezone

from models_registry.engine.client import Limits
from models_registry.engine.server import Engine
from models_registry.engine.watch import figures
from models_registry.engine.watch.figures import Figures
from vbs.configuration import runtime
from vbs.run import descriptors

log = logging.getLogger(__name__)

SPARE = 64  # descriptors that are left for the database, logs and input files
SUITS = 1.25  # times max-num-seqs: the engine's own queue is then short, and never empty
MOST_TIMES = 4  # as many times the window that suits an engine is the most that it may grow to
LEAST = 4  # requests at once, however often the engine preempts

METRICS = "http://engine/metrics"
LOOK_SECONDS = 1.0  # between two looks at the engine's figures
ANSWER_SECONDS = 5.0  # for them to come
LOST_LOOKS = 10  # without figures in a row, after which the window is again what suits max-num-seqs

SHRINK = 0.95  # of what still runs after some of it was preempted
MOST_SHRINK = 0.5  # of the window at one look
FULL_CACHE = 0.9  # of the cache; from here on the window does not grow
FAST, SLOW = 0.125, 0.02  # by which it grows at each look; slow near a size at which the engine has preempted
DRY_LOOKS = 2  # in a row with an empty queue, after which it grows
BUSY = 0.75  # of the window runs; with less, what is in flight is not in the engine's queue but on the way

ASKED = timedelta(minutes=1)  # since somebody asked the engine directly: so long some of its places are kept free
KEPT = 0.03  # of an engine's places
LEAST_KEPT = 2


def limits() -> Limits:
    """What one request may take, by the present settings."""
    seconds, attempts = runtime.value("VBS_REQUEST_SECONDS"), runtime.value("VBS_REQUEST_ATTEMPTS")
    return Limits(seconds, attempts, settings.VBS_MAX_ANSWER_MB * 2**20)


def wanted(engine: Engine) -> int:
    """The window that suits the engine: its own queue is then short, and never empty. Of a remote one, the most that
    its addresses may ever have."""
    if engine.pool:
        return engine.pool.most
    return math.ceil(engine.max_num_seqs * SUITS)


def connections(engine: Engine) -> int:
    """How many requests can have a connection. Each takes a descriptor here and there."""
    return max(1, min(descriptors.left() - SPARE, _left_there(engine) - SPARE))


def in_flight(engine: Engine) -> int:
    """The window: as many as suit the engine, or as can have a connection."""
    return min(wanted(engine), connections(engine))


def shortfall(engine: Engine, window: int) -> str:
    """Why the window is smaller than it should be; empty when it is not."""
    if window >= wanted(engine):
        return ""
    return (
        f"At most {window:,} requests run at once, not {wanted(engine):,}, because no more connections may be open "
        f"(ulimit -n is {descriptors.limit():,}). Raise the hard limit where vbs is started."
    )


def kept(places: int) -> int:
    """How many of an engine's places stay free for people while they ask it directly."""
    return min(max(LEAST_KEPT, math.ceil(places * KEPT)), places - 1)


class Sizing:
    """The rule by which a window follows the engine's figures. It knows no clock and no engine.

    size: the window now. why: what changed it, in words; empty while it is what suits max-num-seqs.

    It grows while the engine's queue runs dry although the window is full. When the engine preempts, its cache cannot
    bear what runs, so the window shrinks to less than that, and grows again slowly. A queue that is longer than the
    quarter of max-num-seqs with which every window begins does not get more: what waits there can be overtaken by
    nobody.
    """

    def __init__(self, places: int, usual: int, most: int) -> None:
        self.places, self.usual, self.most = places, usual, most
        self.size = usual
        self.why = ""
        self._allowed = usual  # the size but for a long queue
        self._preempted = False  # at this size or near it
        self._before: Figures | None = None
        self._dry = self._lost = 0

    def take(self, now: Figures | None, in_flight: int, asked: bool = False) -> None:
        """Follow these figures. in_flight: requests that are sent and not answered. asked: somebody asks the engine
        directly. Counters that are less than before are those of another engine."""
        before, self._before = self._before, now
        if now is None:
            self._miss()
            return
        self._lost = 0
        if before is None or now.preempted < before.preempted:
            return
        if now.preempted > before.preempted:
            self._shrink(int(now.running * SHRINK))
            self._preempted = True
            self.why = "its cache was too small for more, so that requests had to begin anew"
        elif asked and now.waiting and now.cache >= FULL_CACHE:
            self._shrink(now.running - kept(self.places))
            self.why = "its cache is full, and somebody asks it directly"
        else:
            self._grow(now, in_flight)
        queue = math.ceil(max(self.places, now.running) * (SUITS - 1))
        self.size = min(self._allowed, now.running + queue) if now.waiting > queue else self._allowed

    def _miss(self) -> None:
        self._dry = 0
        self._lost += 1
        if self._lost >= LOST_LOOKS:
            self.size = self._allowed = self.usual
            self._preempted, self.why = False, ""

    def _shrink(self, size: int) -> None:
        self._dry = 0
        least = max(min(LEAST, self.usual), int(self._allowed * MOST_SHRINK))
        self._allowed = min(self._allowed, max(size, least))

    def _grow(self, now: Figures, in_flight: int) -> None:
        full = in_flight >= self._allowed - max(1, self._allowed // 20)
        is_dry = not now.waiting and now.running >= self._allowed * BUSY and now.cache < FULL_CACHE
        self._dry = self._dry + 1 if full and is_dry else 0
        if self._dry < DRY_LOOKS:
            return
        by = SLOW if self._preempted and now.cache > FULL_CACHE / 2 else FAST
        self._allowed = min(self.most, self._allowed + max(1, int(self._allowed * by)))
        if not self._preempted:
            self.why = "its queue ran dry with less"
        elif self._allowed >= self.usual:
            self._preempted, self.why = False, ""


class Window:
    """How many requests the batches of one run may have in flight on an engine.

    most: more than `size` ever is, as many connections the run needs. in_flight: how many there are; where it is not
    given, what runs and waits in the engine. asked_at: when somebody last asked the engine directly, at once and
    without I/O.
    """

    def __init__(
        self,
        engine: Engine,
        in_flight: Callable[[], int] | None = None,
        asked_at: Callable[[], datetime | None] = lambda: None,
    ) -> None:
        self.engine = engine
        usual = min(wanted(engine), connections(engine))
        self.most = usual if engine.pool else min(usual * MOST_TIMES, connections(engine))
        self.sizing = Sizing(engine.max_num_seqs, usual, self.most)
        self._in_flight, self._asked_at = in_flight, asked_at

    @property
    def size(self) -> int:
        """How many requests may be in flight now. While people ask the engine directly there are places free for them,
        because a request that waits, however urgent, does not displace one that runs."""
        if self.engine.pool:
            return min(self.most, self.engine.pool.size)
        if not self._asked():
            return self.sizing.size
        return min(self.sizing.size, max(1, self.engine.max_num_seqs - kept(self.engine.max_num_seqs)))

    @property
    def why(self) -> str:
        """Why the size is not what suits max-num-seqs, in words; empty when it is."""
        if self.engine.pool:
            return self.engine.pool.why
        return "places are kept for those who ask it directly" if self.size < self.sizing.size else self.sizing.why

    def reading(self) -> dict[str, Any]:
        """What a worker's row tells of it: how many requests run at once, how many are usual, and why they differ."""
        return {"size": self.size, "usual": self.sizing.usual, "why": self.why}

    def _asked(self) -> bool:
        at = self._asked_at()
        return at is not None and timezone.now() - at < ASKED

    async def follow(self) -> None:
        """Adapt the size to the engine's figures until this is cancelled. A remote one's follows its answers."""
        if self.engine.pool:
            await asyncio.Event().wait()
        address = self.engine.address
        headers = {"Authorization": f"Bearer {address.key}"}
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        connector = aiohttp.UnixConnector(address.socket, limit=1)
        async with aiohttp.ClientSession(
            connector=connector, headers=headers, timeout=timeout, trust_env=False
        ) as link:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                self._take(await _figures(link))

    def _take(self, now: Figures | None) -> None:
        there = now.running + now.waiting if now else 0
        before = self.sizing.size
        self.sizing.take(now, self._in_flight() if self._in_flight else there, self._asked())
        if self.sizing.size != before:
            log.debug(
                "Engine of %s: its window is %d, and was %d: %s", self.engine.spec.name, self.sizing.size, before, now
            )


async def _figures(link: aiohttp.ClientSession) -> Figures | None:
    try:
        async with asyncio.timeout(ANSWER_SECONDS), link.get(METRICS, allow_redirects=False) as response:
            content = bytearray()
            async for piece in response.content.iter_any():
                content += piece
                if len(content) > figures.MOST_BYTES:
                    return None
            return figures.read(content.decode(errors="replace")) if response.status == 200 else None
    except (aiohttp.ClientError, OSError, TimeoutError):  # an engine that dies is noticed elsewhere
        return None


def _left_there(engine: Engine) -> int:
    if engine.pid is None:
        return descriptors.WANTED
    try:
        process = psutil.Process(engine.pid)
        soft, _ = process.rlimit(psutil.RLIMIT_NOFILE)
        return descriptors.WANTED if soft < 0 else soft - process.num_fds()
    except psutil.Error:  # it has just died, which is reported elsewhere
        return descriptors.WANTED
