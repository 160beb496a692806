"""What pushes changes to browsers: a page says which topics it shows, a changed row names its topics, a socket follows.

A row's change is told by a trigger in the database (`triggers`), within the transaction that makes it: it holds for
every statement and every process, and is heard at the commit. The channel layer carries the topics to the web
processes; there, those who look at the same thing with the same rights share a room, whose parts are built and rendered
once for all of them. Every page is right on a plain reload, and polls when its socket is down.
"""

import asyncio
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
import psycopg
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import channel_layers, get_channel_layer
from django.contrib.auth import get_user
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.db import DatabaseError, connection
from django.db.migrations import RunSQL
from django.http import HttpRequest, HttpResponse, QueryDict
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import URLPattern
from django.urls import path as url_path
from django.views.decorators.http import require_GET

from vbs.pages.access import Request, page
from vbs.pages.parts import Part, Pulse, unseen, whole
from vbs.pages.viewer import Viewer, viewer_of

log = logging.getLogger(__name__)

GROUP = "live"
PEOPLE = "people"  # the topic of sessions that end, and of what people may do and see
REST_SECONDS = 0.4  # between two renewals of a room
ALONE_SECONDS = 5.0  # a room is renewed this often, or as seldom as it polls, when nothing is heard: time goes on
RIGHTS_SECONDS = 30.0  # between looks at whether somebody still may look
GREET_SECONDS = 10.0  # a browser hears something this often; when it does not, it asks anew
PULSE_SECONDS = 5.0  # between messages to ourselves, which tell that the layer still carries
AT_ONCE = 2  # rooms that are renewed side by side
MOST_SOCKETS, MOST_OF_ONE = 1000, 300
MOST_ROOMS_OF_ONE = 20  # each is rendered for itself with every change
TOO_MANY = 4429
MOST_SEEN = 5000  # parts that a browser may claim to have seen

Parts = Mapping[str, Part]


# Topics


def triggers(table: str, *topics: str, events: str = "INSERT OR UPDATE OR DELETE") -> RunSQL:
    """A migration: every such change of a row of the table is told. A topic is a word, or `word:column`."""
    name = f"live_{table}"
    words = ", ".join(f"'{topic}'" for topic in topics)
    return RunSQL(
        f"CREATE TRIGGER {name} AFTER {events} ON {table} FOR EACH ROW EXECUTE FUNCTION vbs_changed({words})",
        f"DROP TRIGGER {name} ON {table}",
    )


# `vbs_publish` writes what the channel layer would send: {"topic": …} in msgpack, to the channels of the group. A
# channel whose process was killed is forgotten once its row has expired.
FUNCTIONS = RunSQL(
    """
CREATE FUNCTION vbs_publish(topic text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO channels_postgres_message (channel, message, expire)
    SELECT DISTINCT channel, '\\x81a5746f706963d9'::bytea || set_byte('\\x00'::bytea, 0, octet_length(topic))
        || convert_to(topic, 'UTF8'), now() + interval '1 minute'
    FROM channels_postgres_groupchannel WHERE group_key = 'asgi:group:live' AND expire > now()
$$;
CREATE FUNCTION vbs_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    topic text;
    value text;
BEGIN
    FOREACH topic IN ARRAY TG_ARGV LOOP
        IF strpos(topic, ':') > 0 THEN
            EXECUTE format('SELECT ($1).%I::text', split_part(topic, ':', 2)) INTO value USING coalesce(NEW, OLD);
            topic := split_part(topic, ':', 1) || ':' || value;
        END IF;
        PERFORM vbs_publish(topic);
    END LOOP;
    RETURN NULL;
END $$;
""",
    "DROP FUNCTION vbs_changed; DROP FUNCTION vbs_publish",
)


def sweep() -> None:
    """What the channel layer leaves behind: messages that nobody took, channels of processes that have ended."""
    with connection.cursor() as cursor:
        for table in ("message", "groupchannel"):
            cursor.execute(f"DELETE FROM channels_postgres_{table} WHERE expire < now()")  # noqa: S608


# Pages


@dataclass(frozen=True)
class Page:
    """build(viewer, query, **named): the parts by name. topics(**named): what changes them. `named` is what the address
    names; build raises Gone when that is not there, or not for them. permission: that it takes to look."""

    build: Callable[..., Parts]
    topics: Callable[..., Iterable[str]]
    permission: str = ""


class Gone(LookupError):
    """What the page is about is not there, or not for this viewer."""


PAGES: list[tuple[str, Page]] = []


def path(route: str, shown: Page, name: str) -> URLPattern:
    """The address that a page's pulse asks, by HTTP here and by a socket in `routes`."""
    if all(known != route for known, _ in PAGES):
        PAGES.append((route, shown))

    @require_GET
    @page(shown.permission)
    def poll(request: Request, **named: Any) -> HttpResponseBase:
        try:
            parts = shown.build(request.viewer, request.GET, **named)
        except Gone:
            return HttpResponse(status=404)
        return changes(request, parts, request.GET)

    return url_path(route, poll, name=name)


def changes(request: HttpRequest, parts: Parts, given: QueryDict) -> HttpResponse:
    """What is not as the browser has seen it, and what there is to say."""
    changed = list(unseen(parts.values(), set(given.getlist("seen")[:MOST_SEEN])))
    if not changed and request.method == "GET":
        return HttpResponse(status=204)
    return render(request, "_changed.html", {"changed": changed})


def routes() -> list[URLPattern]:
    """The sockets of every page, at the addresses that they poll."""
    return [url_path(route, Socket.as_asgi(shown=shown)) for route, shown in PAGES]


# Rooms


@dataclass(eq=False)
class Room:
    """Those who look at the same with the same rights."""

    shown: Page
    viewer: Viewer
    query: QueryDict
    named: dict[str, Any]
    sockets: set["Socket"] = field(default_factory=set)
    due: float = 0.0  # when it is renewed next; asyncio's time
    renewed: float = 0.0
    renewing: bool = False
    every: float = ALONE_SECONDS

    def topics(self) -> set[str]:
        return set(self.shown.topics(**self.named))

    def build(self, sockets: list["Socket"]) -> list["News"]:
        """What each of these has not seen. Raises Gone."""
        parts = list(self.shown.build(self.viewer, self.query, **self.named).values())
        self.every = max([ALONE_SECONDS, *(part.every for part in parts if isinstance(part, Pulse))])
        html: dict[str, str] = {}
        found = []
        for socket in sockets:
            new = list(unseen(parts, set(socket.seen.values())))
            for part in new:
                if part.seen not in html:
                    html[part.seen] = self._render(part)
            marks = {mark.rpartition(":")[0]: mark for mark in whole(new)}
            found.append(News("".join(html[part.seen] for part in new), marks))
        return found

    def _render(self, part: Part) -> str:
        context = {"changed": [part], "viewer": self.viewer, "perms": self.viewer.perms}
        return render_to_string("_changed.html", context)


@dataclass(frozen=True)
class News:
    """What a browser is sent, and the marks of the parts in it by their ids."""

    html: str
    marks: Mapping[str, str]


class Hub:
    """The rooms of this process, and what tells them that something has changed."""

    def __init__(self) -> None:
        self.rooms: dict[Any, Room] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.changed = asyncio.Event()
        self.limit = asyncio.Semaphore(AT_ONCE)
        self.open: Counter[Any] = Counter()  # sockets, by the key of who has opened them

    def admit(self, user: Any) -> bool:
        """Whether there is room for one more of them, which is counted then."""
        if self.open.total() >= MOST_SOCKETS or self.open[user] >= MOST_OF_ONE:
            return False
        self.open[user] += 1
        return True

    def dismiss(self, user: Any) -> None:
        self.open[user] -= 1
        self.open += Counter()  # drops who has none

    def join(self, socket: "Socket", room: Room) -> Room | None:
        """The room of those who look at the same; None for who is in so many rooms that it would be one too many."""
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
        """In how many rooms somebody is, by the key of who they are."""
        return sum(any(socket.admitted == user for socket in room.sockets) for room in self.rooms.values())

    def leave(self, socket: "Socket", room: Room) -> None:
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
                log.warning("Changes are not heard of: %s", str(error).strip() or type(error).__name__)
            except Exception:
                log.exception("Changes are not pushed")
            await asyncio.sleep(1)
            self.tell()

    def tell(self, topic: str | None = None) -> None:
        """This has changed; without a topic, anything may have."""
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
        """Hear of changes, until the layer does not even carry our own words: then it is to be made anew."""
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
        """Stay in the group, whose rows expire, and let ourselves hear something."""
        joined = 0.0
        while True:
            if time.monotonic() - joined > layer.group_expiry / 3:
                await layer.group_add(GROUP, channel)
                joined = time.monotonic()
            await layer.send(channel, {"topic": ""})
            await asyncio.sleep(PULSE_SECONDS)

    async def _greet(self) -> None:
        """Say nothing to those who have heard nothing for a while."""
        while True:
            await asyncio.sleep(GREET_SECONDS / 2)
            for socket in [socket for room in self.rooms.values() for socket in room.sockets]:
                if time.monotonic() - socket.spoke > GREET_SECONDS / 2:
                    with suppress(Exception):  # it is gone
                        await socket.say("")

    async def _renew(self) -> None:
        """Renew the rooms that are due."""
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
                    log.debug("Nothing is pushed to a browser: %r", error)
        except Gone:
            for socket in list(room.sockets):
                await socket.close(4404)
        except Exception as error:  # the browser polls meanwhile, and hears what is wrong
            log.warning("A page cannot be renewed: %r", error, exc_info=not isinstance(error, DatabaseError))
            room.due = asyncio.get_running_loop().time() + 1
        finally:
            room.renewing = False
            self.changed.set()


class _Silence(Exception):
    pass


HUB: Hub | None = None


def hub() -> Hub:
    global HUB
    if HUB is None:
        HUB = Hub()
    return HUB


class Socket(AsyncWebsocketConsumer):
    """A browser that looks at a page. It says what it has seen, and is sent what is new."""

    def __init__(self, shown: Page) -> None:
        super().__init__()
        self.shown = shown
        self.room: Room | None = None
        self.seen: dict[str, str] = {}  # the marks of parts, by their ids
        self.looked = time.monotonic() - random.random() * RIGHTS_SECONDS  # so that not all look at once
        self.spoke = time.monotonic()
        self.admitted: Any = None  # the key of whose it is

    async def connect(self) -> None:
        user = self.scope["user"]
        viewer = await self._viewer() if user.is_authenticated else None
        if viewer is None or not hub().admit(user.pk):
            await self.close(4403)
            return
        self.viewer, self.admitted = viewer, user.pk
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """What has been seen: the browser's first and only word."""
        if self.room is not None or text_data is None:
            return
        try:
            seen = orjson.loads(text_data)["seen"]
            self.seen = {one.rpartition(":")[0]: one for one in seen[:MOST_SEEN]}
        except (ValueError, KeyError, TypeError, AttributeError):
            await self.close(4400)
            return
        query = QueryDict(self.scope["query_string"])
        named = self.scope["url_route"]["kwargs"]
        self.room = hub().join(self, Room(self.shown, self.viewer, query, named))
        if self.room is None:
            await self.close(TOO_MANY)  # the browser asks every few seconds instead

    async def disconnect(self, code: int) -> None:
        if self.room is not None:
            hub().leave(self, self.room)
        if self.admitted is not None:
            hub().dismiss(self.admitted)

    async def push(self, new: News) -> None:
        if time.monotonic() - self.looked > RIGHTS_SECONDS:
            self.looked = time.monotonic()
            if await self._viewer() != self.viewer:
                await self.close(4403)  # the browser asks anew, as whoever it is now
                return
        if new.html:
            self.seen |= new.marks
            await self.say(new.html)

    async def say(self, text: str) -> None:
        self.spoke = time.monotonic()
        await self.send(text)

    async def _viewer(self) -> Viewer | None:
        """As it is now: None for who may not look any more."""
        return await database_sync_to_async(self._look, thread_sensitive=False)()

    def _look(self) -> Viewer | None:
        request = HttpRequest()
        request.session = SessionStore(self.scope["session"].session_key)
        user = get_user(request)  # knows of a session that has ended, an account that was closed, a new password
        if not isinstance(user, User):
            return None
        viewer = viewer_of(user, request.session)
        return viewer if not self.shown.permission or viewer.may(self.shown.permission) else None
