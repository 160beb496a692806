"""One connection: it refuses what must not come in, and tells its request when the client does not read."""

import asyncio
import contextlib
import logging
import tempfile
import time
from typing import Any, Literal, Protocol

from twisted.protocols.basic import LineReceiver
from twisted.web.http import RESPONSES, HTTPChannel

from vbs.run import descriptors
from vbs.web.connections import network_of
from vbs.web.limits import MB, BodyLimit
from vbs.web.refusal import Refusal, RequestHead, out_of_resources
from vbs.web.spool import on_disk

logger = logging.getLogger(__name__)

SMALL_BODY = 64 * 1024  # bytes; a body of no more than this is taken without asking, for it is in memory only briefly
# Many clients look for an answer only when they have sent everything. A refused client may go on sending for so long:
LINGER_SECONDS, LINGER_BYTES = 30, 1024 * MB
LINGERING = 64  # refused connections that may do so at once; any further one gets its answer and is closed


class AnnouncedRequest(Protocol):
    """The request as its connection sees it; `vbs.web.request.Request` is the real one."""

    id: str
    method: bytes
    route: str
    limit: BodyLimit
    over: asyncio.Event
    upgrades: bool

    def announce(self, method: bytes, uri: bytes) -> None: ...

    def head(self, length: int | None) -> RequestHead: ...

    def refused(self, status: int, size: int) -> None: ...


class Channel(HTTPChannel):
    """Twisted's connection, with a deadline for whatever it waits for, and with answers that refuse."""

    factory: Any
    transport: Any
    requests: list[AnnouncedRequest]
    phase: Literal["idle", "head", "asking", "body", "answer"] = "idle"
    refused = False
    drained = 0
    timeOut: float | None
    deadline: float | None = None
    timer: Any = None  # one for each connection, moved when it fires; Twisted would make one for each request
    _abortingCall: Any = None
    held: list[bytes] | None = None  # the bytes of a body that came before it was admitted

    def __init__(self) -> None:
        super().__init__()
        self.writable = asyncio.Event()
        self.writable.set()

    # Opening and closing

    def connectionMade(self) -> None:
        super().connectionMade()
        self.address = network_of(getattr(self.transport.getPeer(), "host", ""))
        refusal = self.factory.open_connections.enter(self.address, self.transport)
        if refusal:
            self.refuse(refusal, lingers=len(self.factory.lingering) < LINGERING)

    def connectionLost(self, reason: Any) -> None:
        super().connectionLost(reason)
        self.factory.open_connections.leave(self.address, self.transport)
        self.factory.lingering.discard(self)
        self.writable.set()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def pauseProducing(self) -> None:
        self.writable.clear()
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self.writable.set()
        super().resumeProducing()

    def loseConnection(self) -> None:
        """Write what is left to write; abort when the client does not read it in time."""
        super().loseConnection()
        if self._abortingCall is None and self.transport.connected:
            self._abortingCall = self.callLater(self.factory.bounds.patience, self.forceAbortClient)

    # Deadlines

    def setTimeout(self, period: float | None) -> float | None:
        """Twisted calls this: with a period between two requests, with None while one is answered."""
        previous, self.timeOut = self.timeOut, period
        self.expect_within(period)
        return previous

    def resetTimeout(self) -> None:
        """Twisted calls this whenever bytes come. Here `body_came` decides what they are worth."""

    def expect_within(self, seconds: float | None) -> None:
        self.deadline = None if seconds is None else time.monotonic() + seconds
        if seconds is not None:
            if self.timer is None:
                self.timer = self.callLater(seconds, self.look_at_time)
            elif self.timer.getTime() > self.timer.seconds() + seconds:
                self.timer.reset(seconds)

    def look_at_time(self) -> None:
        self.timer = None
        if self.deadline is None:
            return
        left = self.deadline - time.monotonic()
        if left > 0:
            self.timer = self.callLater(left, self.look_at_time)
        else:
            self.timeoutConnection()

    def body_came(self, size: int) -> None:
        """Move the deadline by the time that these bytes may take, but never further than `patience` from now."""
        bounds = self.factory.bounds
        if self.deadline is not None:
            self.deadline = min(self.deadline + size / bounds.rate, time.monotonic() + bounds.patience)

    def timeoutConnection(self) -> None:
        bounds = self.factory.bounds
        if self.refused or self.phase not in ("head", "body"):
            super().timeoutConnection()
            return
        if self.phase == "head":
            words = f"The head of the request was not complete within {bounds.head_seconds:g} seconds."
        else:
            words = f"The body of the request came slower than {bounds.rate} bytes a second."
        self.refuse(Refusal(408, "request_timeout", words))

    # Receiving

    def dataReceived(self, data: bytes) -> None:
        if self.refused:
            self.drained += len(data)
            if self.drained > LINGER_BYTES:
                self.transport.abortConnection()
            return
        if self.phase == "idle":
            self.phase = "head"
            self.expect_within(self.factory.bounds.head_seconds)
        LineReceiver.dataReceived(self, data)

    def rawDataReceived(self, data: bytes) -> None:
        if self.held is not None:
            self.held.append(data)
        elif not self.refused:
            super().rawDataReceived(data)

    def headerReceived(self, line: bytes) -> bool:
        try:
            taken: bool = super().headerReceived(line)
        except ValueError:  # the length has more digits than Python converts
            taken = self._failChooseTransferDecoder()
        return taken

    def allHeadersReceived(self) -> None:
        request = self.requests[-1]
        request.announce(self._command, self._path)
        if self.length is not None and self.length > request.limit.bytes:
            self.refuse_size(request, f"The request body has {self.length} bytes")
        elif self.length != 0 and request.upgrades:  # Daphne would read the body into memory and keep the file open
            self.refuse(Refusal(400, "invalid_http", "A request that opens a WebSocket must not have a body."))
        elif self.length is not None and self.length <= SMALL_BODY:
            self.take_body()
        elif on_disk(self.length) and (full := self.factory.server.spool_space.refuses(self.address, self.length or 1)):
            self.refuse(full)
        else:
            self.phase, self.held = "asking", []
            self.expect_within(None)
            self._networkProducer.pauseProducing()
            self.asking = asyncio.ensure_future(self.ask(request))

    async def ask(self, request: AnnouncedRequest) -> None:
        """Ask whether this body may come in. Meanwhile nothing more of it is read than came with the head."""
        refusal = await self.factory.server.ask(request.head(self.length))
        held, self.held = self.held or [], None
        if request.over.is_set():
            return
        if refusal:
            self.refuse(refusal)
        else:
            self.take_body()
            for data in held:
                LineReceiver.dataReceived(self, data)
        self._networkProducer.resumeProducing()

    def take_body(self) -> None:
        self.phase = "body"
        self.expect_within(self.factory.bounds.patience)
        try:
            super().allHeadersReceived()
        except OSError as error:
            self.refuse_unstored(error)

    def allContentReceived(self) -> None:
        if not self.refused:
            self.phase = "answer"
            super().allContentReceived()

    def requestDone(self, request: AnnouncedRequest) -> None:
        self.phase = "idle"
        super().requestDone(request)

    # Refusing

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse_head()

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders:
            self.refuse_head()
        else:
            self.refuse(Refusal(400, "invalid_http", "The request is not valid HTTP/1.1: it cannot be read."))

    def refuse_head(self) -> None:
        most = f"{self.totalHeadersSize} bytes and {self.maxHeaders} headers"
        words = f"The URL and the headers of this request are too large: together they may have at most {most}."
        self.refuse(Refusal(431, "headers_too_large", words))

    def refuse_size(self, request: AnnouncedRequest, found: str) -> None:
        limit, route = request.limit, f"{request.method.decode('latin-1')} {request.route}"
        words = f"{found}; {route} takes at most {limit.bytes} ({limit.reason})."
        self.refuse(Refusal(413, "request_too_large", words))

    def refuse_unstored(self, error: OSError) -> None:
        logger.error("Web server: a request body cannot be stored in %s: %s", tempfile.gettempdir(), error)
        if error.errno in descriptors.EXHAUSTED:
            self.factory.server.report_no_descriptors()
        self.refuse(out_of_resources(error) or Refusal(500, "storage_failed", "The server cannot store the request."))

    def refuse(self, refusal: Refusal, lingers: bool = True) -> None:
        """Answer and close, so that a client that is still sending gets to read the answer.

        Closing while unread bytes are there would reset the connection, and the client would lose the answer. So only
        our side is closed, and what still comes is thrown away, within bounds, until the client closes its side.
        lingers: False closes both sides at once, which holds nothing; most clients read the answer even then.
        """
        if self.refused:
            return
        self.refused = True
        if lingers:
            self.factory.lingering.add(self)
        self.setTimeout(None)
        self.clearLineBuffer()
        self.setRawMode()
        if not self.requests:
            self.requests.append(self.requestFactory(self))
        request = self.requests[-1]
        body = refusal.body()
        head = [
            f"HTTP/1.1 {refusal.status} {RESPONSES.get(refusal.status, b'Refused').decode()}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"X-Request-ID: {request.id}",
            *(f"{name}: {value}" for name, value in refusal.headers),
            "Connection: close",
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        if lingers:
            self.transport.loseWriteConnection()
        self.transport.doWrite()  # at once: if the client closes first, the reactor drops what is not written yet
        request.refused(refusal.status, len(body))
        if lingers:
            self._abortingCall = self.callLater(LINGER_SECONDS, self.forceAbortClient)
        else:
            with contextlib.suppress(OSError):  # there is nothing to read
                self.transport.getHandle().recv(SMALL_BODY)
            self.transport.loseConnection()
