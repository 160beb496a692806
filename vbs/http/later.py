"""Answers that are made in the event loop, after the request's thread and its database connection were given back.

Such an answer may take minutes, and there may be hundreds at once. Its view checks the request as any other does, and
returns a LaterAnswer, which goes through every middleware for its headers. The content comes when Django is done.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from django.http.response import HttpResponseBase

Message = Mapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]

AT_END: list[Callable[[], None]] = []


def at_end(step: Callable[[], None]) -> None:
    """Have the web process call this when it has answered its last request."""
    AT_END.append(step)


class LaterAnswer(HttpResponseBase):
    """streaming: middleware asks such a response for no content."""

    streaming = True

    async def answer(self, send: Send) -> None:
        """Send the whole response as messages of ASGI. It is cancelled when the client is gone."""
        raise NotImplementedError

    def head(self, status: int, headers: dict[str, str]) -> Message:
        """The first message: these headers, and those of the middleware."""
        given = {name.lower(): value for name, value in (*self.items(), *headers.items())}
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items()]
        return {"type": "http.response.start", "status": status, "headers": encoded}


def piece(content: bytes, more: bool = True) -> Message:
    """A message with some of the content, after the head. more: whether others follow."""
    return {"type": "http.response.body", "body": content, "more_body": more}


async def unless_gone(answer: Awaitable[None], receive: Receive) -> None:
    """Await the answer; cancel it at once when the client is gone."""
    answering, gone = asyncio.ensure_future(answer), asyncio.ensure_future(receive())
    try:
        await asyncio.wait((answering, gone), return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            answering.result()
    finally:
        for task in (answering, gone):
            task.cancel()
        await asyncio.gather(answering, gone, return_exceptions=True)
