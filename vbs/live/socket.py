"""The socket of a page: a browser says what it has seen, and is sent what is new."""

import random
import time
from typing import Any

import orjson
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.contrib.auth import get_user
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest, QueryDict
from django.urls import URLPattern
from django.urls import path as url_path

from vbs.live.pages import MOST_SEEN, PAGES, Page
from vbs.live.rooms import News, Room, hub
from vbs.pages.viewer import Viewer, viewer_of

RIGHTS_SECONDS = 30.0  # between looks at whether somebody still may look
TOO_MANY = 4429  # the code of a socket that is closed because somebody has too many


def routes() -> list[URLPattern]:
    """The sockets of every page, at the addresses that they poll."""
    return [url_path(route, Socket.as_asgi(shown=shown)) for route, shown in PAGES]


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
