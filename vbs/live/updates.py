"""Live updates: hears which topics have changed, and renders the pages that show them once for each room of viewers.

Viewers who look at the same page with the same rights share a room.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import psycopg
from channels.db import database_sync_to_async
from channels.layers import channel_layers, get_channel_layer
from django.db import DatabaseError
from django.http import QueryDict

from vbs.live.pages import Page, PageGone
from vbs.live.topics import PEOPLE
from vbs.pages.parts import news, rendered, unseen, whole
from vbs.pages.viewer import Viewer

log = logging.getLogger(__name__)

GROUP = "live"  # of the channel layer; the database's function `vbs_publish` names it too
REST_SECONDS = 0.4  # between two renewals of a room
ALONE_SECONDS = 5.0  # a room without changes is renewed this often, or at its polling interval if that is longer
GREET_SECONDS = 10.0  # a browser hears something this often, else it connects again
PULSE_SECONDS = 5.0  # between messages to ourselves, which show that the layer works
AT_ONCE = 2  # rooms that are renewed at the same time
MOST_SOCKETS, MOST_OF_ONE = 1000, 300
MOST_ROOMS_OF_ONE = 20  # each member of these is rendered separately at every change


class Member(Protocol):
    """A browser in a room. seen: the marks of its parts, by their ids. looked, spoke: when its rights were last checked
    and when something was last sent to it, by `time.monotonic`. admitted: the key of its person."""

    seen: dict[str, str]
    looked: float
    spoke: float
    admitted: Any

    async def push(self, new: "News") -> None: ...

    async def say(self, text: str) -> None: ...

    async def close(self, code: int) -> None: ...


@dataclass(eq=False)
class Room:
    """The viewers who look at the same page with the same rights."""

    shown: Page
    viewer: Viewer
    query: QueryDict
    named: dict[str, Any]
    sockets: set[Member] = field(default_factory=set)
    due: float = 0.0  # when it is renewed next; asyncio's time
    renewed: float = 0.0
    renewing: bool = False
    every: float = ALONE_SECONDS

    def topics(self) -> set[str]:
        return set(self.shown.topics(**self.named))

    def build(self, sockets: list[Member]) -> list["News"]:
        """The news for each of these members. Raises PageGone."""
        parts = self.shown.build(self.viewer, self.query, **self.named)
        self.every = max(ALONE_SECONDS, parts["pulse"].context["every"])
        fragments = rendered(parts.values(), self.viewer)
        told: dict[tuple[str, ...], News] = {}
        found = []
        for socket in sockets:
            new = list(unseen(fragments, set(socket.seen.values())))
            marks = tuple(fragment.seen for fragment in new)
            if marks not in told:
                told[marks] = News(news(new), {mark.rpartition(":")[0]: mark for mark in whole(new)})
            found.append(told[marks])
        return found


@dataclass(frozen=True)
class News:
    """What a browser is sent, and the marks of the parts in it by their ids."""

    html: str
    marks: Mapping[str, str]


class LiveHub:
    """The rooms of this process, and the listener that tells them about changes."""

    def __init__(self) -> None:
        self.rooms: dict[Any, Room] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.changed = asyncio.Event()
        self.limit = asyncio.Semaphore(AT_ONCE)
        self.open: Counter[Any] = Counter()  # sockets, by the key of who has opened them

    def admit(self, user: Any) -> bool:
        """Counts one more socket of this person; False when the person has too many."""
        if self.open.total() >= MOST_SOCKETS or self.open[user] >= MOST_OF_ONE:
            return False
        self.open[user] += 1
        return True

    def dismiss(self, user: Any) -> None:
        self.open[user] -= 1
        self.open += Counter()  # drops who has none

    def join(self, socket: Member, room: Room) -> Room | None:
        """The room for this page and these rights; None when the person is in too many rooms already."""
        key = (id(room.shown), room.viewer, room.query.urlencode(), tuple(sorted(room.named.items())))
        if key not in self.rooms and self.rooms_of(socket.admitted) >= MOST_ROOMS_OF_ONE:
            return None
        room = self.rooms.setdefault(key, room)
        room.sockets.add(socket)
        room.due = 0.0  # what changed between the page and its socket
        self.changed.set()
        if not self.tasks:
            self._start(self._forever(self._hear))
            self._start(self._forever(self._renew))
            self._start(self._forever(self._greet))
        return room

    def rooms_of(self, user: Any) -> int:
        """How many rooms a person is in, by the person's key."""
        return sum(any(socket.admitted == user for socket in room.sockets) for room in self.rooms.values())

    def leave(self, socket: Member, room: Room) -> None:
        room.sockets.discard(socket)
        if not room.sockets:
            self.rooms = {key: one for key, one in self.rooms.items() if one is not room}

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _forever(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except (psycopg.Error, OSError, _Silence) as error:
                log.warning("Live pages: the database tells no changes: %s", str(error).strip() or type(error).__name__)
            except Exception:
                log.exception("Live pages: changes are not pushed, because of an unforeseen error")
            await asyncio.sleep(1)
            self.tell()

    def tell(self, topic: str | None = None) -> None:
        """A topic has changed; without a topic, anything may have changed."""
        now = asyncio.get_running_loop().time()
        if topic == PEOPLE:
            topic = None
            for room in self.rooms.values():
                for socket in room.sockets:
                    socket.looked = -math.inf
        for room in self.rooms.values():
            if topic is None or topic in room.topics():
                room.due = min(room.due, max(now, room.renewed + REST_SECONDS))
        self.changed.set()

    async def _hear(self) -> None:
        """Listens for changes until the channel layer does not bring back even our own messages: then it has to be
        opened anew."""
        layer = get_channel_layer()
        assert layer is not None
        channel = await layer.new_channel()
        beating = asyncio.ensure_future(self._beat(layer, channel))
        try:
            while True:
                receiving = asyncio.ensure_future(layer.receive(channel))
                done, _ = await asyncio.wait(
                    (receiving, beating), timeout=3 * PULSE_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if receiving not in done:
                    receiving.cancel()
                    if beating in done:
                        beating.result()
                    raise _Silence("nothing came through the channel layer")
                if topic := receiving.result().get("topic"):
                    self.tell(topic)
        finally:
            beating.cancel()
            channel_layers.backends.pop("default", None)

    async def _beat(self, layer: Any, channel: str) -> None:
        """Renews our membership in the group, which expires, and sends a message to ourselves."""
        joined = 0.0
        while True:
            if time.monotonic() - joined > layer.group_expiry / 3:
                await layer.group_add(GROUP, channel)
                joined = time.monotonic()
            await layer.send(channel, {"topic": ""})
            await asyncio.sleep(PULSE_SECONDS)

    async def _greet(self) -> None:
        """Sends something to browsers that have heard nothing for a while."""
        while True:
            await asyncio.sleep(GREET_SECONDS / 2)
            for socket in [socket for room in self.rooms.values() for socket in room.sockets]:
                if time.monotonic() - socket.spoke > GREET_SECONDS / 2:
                    with suppress(Exception):  # it is gone
                        await socket.say("")

    async def _renew(self) -> None:
        """Renews the rooms that are due."""
        clock = asyncio.get_running_loop().time
        while True:
            now = clock()
            for room in list(self.rooms.values()):
                if room.due <= now and not room.renewing:
                    room.renewing = True
                    room.renewed, room.due = now, now + room.every
                    self._start(self._renew_one(room))
            waits = [room.due for room in self.rooms.values() if not room.renewing]
            self.changed.clear()
            try:
                async with asyncio.timeout(max(0.01, min(waits, default=now + 60) - now)):
                    await self.changed.wait()
            except TimeoutError:
                pass

    async def _renew_one(self, room: Room) -> None:
        try:
            async with self.limit:
                sockets = list(room.sockets)
                news = await database_sync_to_async(room.build, thread_sensitive=False)(sockets)
            for socket, new in zip(sockets, news, strict=True):
                try:
                    await socket.push(new)
                except Exception as error:  # it is gone, or its rights cannot be asked for: the others go on
                    log.debug("Live pages: nothing is pushed to a browser: %r", error)
        except PageGone:
            for socket in list(room.sockets):
                await socket.close(4404)
        except Exception as error:  # the browser polls meanwhile, and hears what is wrong
            log.warning(
                "Live pages: a page cannot be renewed: %r", error, exc_info=not isinstance(error, DatabaseError)
            )
            room.due = asyncio.get_running_loop().time() + 1
        finally:
            room.renewing = False
            self.changed.set()


class _Silence(Exception):
    pass


HUB: LiveHub | None = None


def hub() -> LiveHub:
    global HUB
    if HUB is None:
        HUB = LiveHub()
    return HUB
