"""A streamed answer whose head goes out with its first piece, so that what goes wrong before that is told as an error.

Its content may take long to begin, as that of a file which has to be made first. It is made in a thread of its own, and
ended when the client is gone.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, cast

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

from vbs.http import error_pages
from vbs.http.later import LaterAnswer, Send, piece
from vbs.openai.errors import ApiError


class LateHead(LaterAnswer, StreamingHttpResponse):
    """content: pieces, of which those that are empty are moments at which it may be ended. What it raises before its
    first piece that is not empty becomes the answer; later it cuts the answer off. Served otherwise than by our handler
    it is a stream as any other."""

    def __init__(self, request: HttpRequest, content: Iterator[bytes], **options: Any) -> None:
        super().__init__(content, **options)
        self._request = request

    async def answer(self, send: Send) -> None:
        async with ThreadSensitiveContext():
            try:
                async with aclosing(cast(AsyncGenerator[bytes], self.streaming_content)) as pieces:
                    await self._answer(pieces, send)
            finally:
                await sync_to_async(self.close)()

    async def _answer(self, pieces: AsyncGenerator[bytes], send: Send) -> None:
        if self._request.method == "HEAD":  # nothing is made for it
            await send(self.head(self.status_code, {}))
            await send(piece(b"", more=False))
            return
        started = False
        try:
            async for content in pieces:
                if not content:
                    continue
                if not started:
                    await send(self.head(self.status_code, {}))
                    started = True
                await send(piece(content))
        except Exception as error:
            if started:
                raise
            await self._refuse(await sync_to_async(self._refusal)(error), send)
            return
        if not started:
            await send(self.head(self.status_code, {}))
        await send(piece(b"", more=False))

    def _refusal(self, error: Exception) -> HttpResponse:
        if isinstance(error, ApiError):
            return error_pages.refused(self._request, error, "The download failed")
        try:
            raise error
        except Exception:
            return error_pages.server_error(self._request)

    async def _refuse(self, refused: HttpResponse, send: Send) -> None:
        del self.headers["Content-Disposition"]
        await send(self.head(refused.status_code, dict(refused.items())))
        await send(piece(refused.content, more=False))
