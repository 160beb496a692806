"""The socket of a page: a browser says what it has seen, and gets what is new."""

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
from vbs.live.updates import News, Room, hub
from vbs.pages.viewer import Viewer, viewer_of

RIGHTS_SECONDS = 30.0  # between checks of a viewer's rights
TOO_MANY = 4429  # the code of a socket that is closed because somebody has too many


def routes() -> list[URLPattern]:
    """The sockets of all pages, at the addresses that they poll."""
    return [url_path(route, LiveSocket.as_asgi(shown=shown)) for route, shown in PAGES]


class LiveSocket(AsyncWebsocketConsumer):
    """The connection of a browser that looks at a page."""

    def __init__(self, shown: Page) -> None:
        super().__init__()
        self.shown = shown
        self.room: Room | None = None
        self.seen: dict[str, str] = {}  # the marks of parts, by their ids
        # Random, so that not all of them check at the same time.
        self.looked = time.monotonic() - random.random() * RIGHTS_SECONDS
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
        """What the browser has seen. It sends this once, first of all."""
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
        """The viewer with the rights of now; None when the person may not look any more."""
        return await database_sync_to_async(self._look, thread_sensitive=False)()

    def _look(self) -> Viewer | None:
        request = HttpRequest()
        request.session = SessionStore(self.scope["session"].session_key)
        user = get_user(request)  # this fails for an ended session, a closed account and a new password
        if not isinstance(user, User):
            return None
        viewer = viewer_of(user, request.session)
        return viewer if not self.shown.permission or viewer.may(self.shown.permission) else None
