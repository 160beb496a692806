"""Streamed answers: none of them holds a database connection while its client reads, and no reader has too many.

A client may read slowly, and the pool has few connections. So a request gives its connection back when its answer is
made, whatever kind of answer it is, and again after each piece of a streamed one.
"""

import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from threading import Lock
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.core.handlers.asgi import ASGIRequest
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from vbs.accounts.models import ApiKey
from vbs.http import error_pages
from vbs.openai.errors import TooMany


class OpenStreams:
    """How many streams each reader has open in this process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._by_reader: Counter[str] = Counter()

    def start(self, reader: str, most: int) -> bool:
        """Count one more stream. False when the reader has the most already."""
        with self._lock:
            if self._by_reader[reader] >= most:
                return False
            self._by_reader[reader] += 1
            return True

    def end(self, reader: str) -> None:
        with self._lock:
            self._by_reader[reader] -= 1
            if not self._by_reader[reader]:
                del self._by_reader[reader]

    def __len__(self) -> int:
        return self._by_reader.total()


open_streams = OpenStreams()


class Stream:
    """The content of a streamed answer.

    It ends when the response is closed, or when the garbage collector removes it: an HTTP request that is cut off may
    lose its response before that is sent.
    """

    def __init__(self, content: Iterator[bytes] | AsyncIterator[bytes], reader: str) -> None:
        self.content = content
        self.close = weakref.finalize(self, open_streams.end, reader)
        self.close.atexit = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        give_back = sync_to_async(close_old_connections)
        pieces: Any = _pulled(self.content) if isinstance(self.content, Iterator) else self.content
        async with aclosing(pieces):
            async for piece in pieces:
                await give_back()
                yield piece


async def _pulled(content: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Read one piece at a time, in the thread of the request; Django would read all of them into a list first."""
    while (piece := await sync_to_async(_next)(content)) is not None:
        yield piece


def _next(content: Iterator[bytes]) -> bytes | None:
    return next(content, None)


class StreamsMiddleware:
    """Stands outside every middleware that queries the database.

    It acts under ASGI only: the connection of Django's test client belongs to the test.
    """

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if not isinstance(request, ASGIRequest):
            return response
        close_old_connections()
        if not isinstance(response, StreamingHttpResponse):
            return response
        reader = reader_of(request)
        if not open_streams.start(reader, settings.VBS_MAX_STREAMS):
            response.close()
            return _too_many(request)
        response.streaming_content = Stream(response.streaming_content, reader)
        return response


def reader_of(request: HttpRequest) -> str:
    """Who reads the stream: a key, a person or, when neither is known, an address."""
    key, user = getattr(request, "auth", None), getattr(request, "user", None)
    if isinstance(key, ApiKey):
        return f"key {key.pk}"
    if isinstance(user, AbstractBaseUser):
        return f"person {user.pk}"
    return f"address {request.META.get('REMOTE_ADDR', '')}"


def _too_many(request: HttpRequest) -> HttpResponse:
    most = settings.VBS_MAX_STREAMS
    message = (
        f"You have {most} downloads running, which is the most (VBS_MAX_STREAMS). Wait until one of them has ended."
    )
    return error_pages.refused(request, TooMany(message, code="too_many_downloads"), "Too many downloads")
