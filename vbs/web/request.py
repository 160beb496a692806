"""One HTTP request. The application gets the body as it asks for it; the client gets the response as it reads it."""

import asyncio
import logging
import time
from typing import Any, BinaryIO

from daphne.http_protocol import WebRequest
from twisted.web.http import NO_BODY_CODES

from vbs import logs
from vbs.web.channel import Channel
from vbs.web.limits import BodyLimit
from vbs.web.refusal import Refusal, RequestHead, try_later
from vbs.web.spool import CHUNK, on_disk, spool

logger = logging.getLogger(__name__)

CLIENT_CLOSED = 499  # in the access log only, as nginx writes it

Message = dict[str, Any]


class Request(WebRequest):
    """Daphne's request, whose body is read piece by piece and whose response waits for the client."""

    channel: Channel
    content: BinaryIO
    method = b"-"
    route = "-"
    limit: BodyLimit

    def __init__(self, channel: Channel, queued: Any = False) -> None:
        super().__init__(channel, queued, False)  # False: with True, Twisted parses forms and their files in memory
        self.arrived = time.monotonic()
        self.id = logs.request_id(None)
        self.announced = False
        self.length: int | None = 0  # of the body, as announced
        self.received = self.given = 0  # bytes of the body: received from the client, given to the application
        self.address, self.spool_space = channel.address, self.server.spool_space
        self.on_disk = 0  # bytes of the body that the spool counts
        self.patience: float = self.server.bounds.patience  # seconds for which the client may let us wait
        self.unread = 0  # bytes written since we last waited
        self.handed_over = False
        self.over = asyncio.Event()  # set when the answer is complete, or the client is gone

    def announce(self, method: bytes, uri: bytes) -> None:
        """Called when the head is complete: from now on the request has a route, an id and a limit."""
        self.method, self.uri = method, uri
        self.route = uri.partition(b"?")[0].decode("latin-1")
        self.announced = True
        if given := self._header(b"x-request-id"):
            self.id = logs.request_id(given)
        self.requestHeaders.setRawHeaders(b"x-request-id", [self.id.encode()])
        self.limit = self.server.limits(method.decode("latin-1"), self.route, self._header(b"content-type"))

    @property
    def upgrades(self) -> bool:
        return self._header(b"upgrade").lower() == "websocket"

    def _header(self, name: bytes) -> str:
        values: list[bytes] = self.requestHeaders.getRawHeaders(name, [b""])
        return values[0].decode("latin-1")

    def head(self, length: int | None) -> RequestHead:
        headers = [(name.lower(), value) for name, values in self.requestHeaders.getAllRawHeaders() for value in values]
        return RequestHead(self.method.decode("latin-1"), self.route, headers, length, self.address)

    # The body

    def gotLength(self, length: int | None) -> None:
        self.length = length
        self.content = spool(length)

    def handleContentChunk(self, data: bytes) -> None:
        if self.channel.refused:
            return
        self.received += len(data)
        if self.received > self.limit.bytes:
            self.channel.refuse_size(self, f"The request body has more than {self.limit.bytes} bytes")
            return
        self.channel.body_came(len(data))
        if on_disk(self.length):
            if full := self.spool_space.refuses(self.address, len(data)):
                self.channel.refuse(full)
                return
            self.spool_space.take(self.address, len(data))
            self.on_disk += len(data)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self.content.write(rest) :]
        except OSError as error:
            self.channel.refuse_unstored(error)

    def release_space(self) -> None:
        self.spool_space.give_back(self.address, self.on_disk)
        self.on_disk = 0

    async def receive(self) -> Message:
        if self.handed_over or self.over.is_set():
            await self.over.wait()
            return {"type": "http.disconnect"}
        body = self.content.read(CHUNK)
        self.given += len(body)
        self.handed_over = not body or self.given >= self.received
        if self.handed_over:
            self.content.close()
        else:
            await asyncio.sleep(0)  # lets other requests go on between the pieces of a large body
        return {"type": "http.request", "body": body, "more_body": not self.handed_over}

    # The response

    async def send(self, message: Message) -> None:
        """Write, and return when more can be written. When the client is gone it does nothing: receive() says so."""
        if self.over.is_set():
            await asyncio.sleep(0)
            return
        channel = self.channel
        self.server.check_headers_type(message)
        if message["type"] == "http.response.body" and (self.method == b"HEAD" or self.code in NO_BODY_CODES):
            message = {"type": "http.response.body"}  # these have no body, but Daphne writes every piece but the first
        self.handle_reply(message)
        self.unread += len(message.get("body", b""))
        if not channel.writable.is_set() and not self.over.is_set():
            await self.wait_for_reader()

    async def wait_for_reader(self) -> None:
        """Wait until the client reads. What it has read extends the time it has, up to `patience` at most."""
        bounds, started = self.server.bounds, time.monotonic()
        try:
            async with asyncio.timeout(self.patience):
                await self.channel.writable.wait()
        except TimeoutError:
            logger.warning(
                "Request %s %s: its answer is cut off, because %s reads it at less than %d bytes a second",
                self.method.decode("latin-1"), self.route, self.address, bounds.rate,
            )  # fmt: skip
            self.channel.transport.abortConnection()
        else:
            waited = time.monotonic() - started
            self.patience = min(bounds.patience, self.patience - waited + self.unread / bounds.rate)
            self.unread = 0

    def finish(self) -> None:
        super().finish()
        self.end()

    def refused(self, status: int, size: int) -> None:
        self.code, self.sentLength = status, size
        if self.content is not None:  # the body has no file before its length is known
            self.content.close()
        self.release_space()
        self.channel.factory.log(self)

    def connectionLost(self, reason: Any) -> None:
        if self.announced and not self.channel.refused:
            self.code = CLIENT_CLOSED
            self.channel.factory.log(self)
        super().connectionLost(reason)
        self.end()

    def end(self) -> None:
        self.release_space()
        self.over.set()

    def basic_error(self, status: int, status_text: bytes, body: str) -> None:
        """Daphne's own errors: a page, or the API's envelope below /v1/."""
        if self.route.startswith("/v1/") or self._response_started:
            if status == 500:
                body = f"The server failed to answer. Its log says why, under {self.id}."
            code = status_text.decode().lower().replace(" ", "_")
            self.answer(try_later(status, code, body) if status == 503 else Refusal(status, code, body))
        else:
            self.setHeader(b"x-request-id", self.id.encode())
            super().basic_error(status, status_text, body)

    def answer(self, refusal: Refusal) -> None:
        """Answer for an application that did not."""
        if self._response_started:  # too late; the client must not take what it has for the whole response
            self.channel.transport.abortConnection()
            return
        self.setHeader(b"x-request-id", self.id.encode())
        content = refusal.body()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        headers += [(name.lower().encode(), value.encode()) for name, value in refusal.headers]
        self.handle_reply({"type": "http.response.start", "status": refusal.status, "headers": headers})
        self.handle_reply({"type": "http.response.body", "body": content})
