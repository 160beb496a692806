"""One connection: refuses what must not come in, and tells requests when the client is not reading."""

import asyncio
import contextlib
import logging
import tempfile
import time
from typing import Any, Literal, Protocol

from twisted.protocols.basic import LineReceiver
from twisted.web.http import RESPONSES, HTTPChannel

from vbs.run import descriptors
from vbs.web.guests import neighbourhood
from vbs.web.limits import MB, Limit
from vbs.web.refusal import Head, Refusal, failure
from vbs.web.spool import on_disk

logger = logging.getLogger(__name__)

UNASKED = 64 * 1024  # bytes of a body that come in before anybody is asked: they are in memory, and soon answered
# Many clients look for an answer only when they have sent everything. A refused one may go on for so long:
LINGER_SECONDS, LINGER_BYTES = 30, 1024 * MB
LINGERING = 64  # connections beyond the limits that may; others are told why and closed at once


class Announced(Protocol):
    """What a connection knows of its request (`vbs.web.request`)."""

    id: str
    method: bytes
    route: str
    limit: Limit
    over: asyncio.Event
    upgrades: bool

    def announce(self, method: bytes, uri: bytes) -> None: ...

    def head(self, length: int | None) -> Head: ...

    def refused(self, status: int, size: int) -> None: ...


class Channel(HTTPChannel):
    """What Twisted knows of a connection, and the time by which what we wait for must have come."""

    factory: Any
    transport: Any
    requests: list[Announced]
    phase: Literal["idle", "head", "asking", "body", "answer"] = "idle"
    refused = False
    drained = 0
    timeOut: float | None
    deadline: float | None = None
    timer: Any = None  # one a connection, moved when it fires; Twisted would make one for each request
    _abortingCall: Any = None
    held: list[bytes] | None = None  # what came of a body while somebody is asked whether it may

    def __init__(self) -> None:
        super().__init__()
        self.writable = asyncio.Event()
        self.writable.set()

    # Come and go

    def connectionMade(self) -> None:
        super().connectionMade()
        self.address = neighbourhood(getattr(self.transport.getPeer(), "host", ""))
        refusal = self.factory.guests.enter(self.address, self.transport)
        if refusal:
            self.refuse(refusal, lingers=len(self.factory.lingering) < LINGERING)

    def connectionLost(self, reason: Any) -> None:
        super().connectionLost(reason)
        self.factory.guests.leave(self.address, self.transport)
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
        """What is still to be written is written, unless the client does not read it."""
        super().loseConnection()
        if self._abortingCall is None and self.transport.connected:
            self._abortingCall = self.callLater(self.factory.bounds.patience, self.forceAbortClient)

    # Time

    def setTimeout(self, period: float | None) -> float | None:
        """Twisted's: between requests there is one, during an answer none."""
        previous, self.timeOut = self.timeOut, period
        self.expect_within(period)
        return previous

    def resetTimeout(self) -> None:
        """Twisted's, when anything comes: here it depends on what."""

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
        """Every byte buys time, but never more than there was at the start."""
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

    # What comes in

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
        except ValueError:  # a length of more digits than Python reads
            taken = self._failChooseTransferDecoder()
        return taken

    def allHeadersReceived(self) -> None:
        request = self.requests[-1]
        request.announce(self._command, self._path)
        if self.length is not None and self.length > request.limit.bytes:
            self.refuse_size(request, f"The request body has {self.length} bytes")
        elif self.length != 0 and request.upgrades:  # Daphne would read it into memory, and keep the file
            self.refuse(Refusal(400, "invalid_http", "A request to become a WebSocket has no body."))
        elif self.length is not None and self.length <= UNASKED:
            self.take_body()
        elif on_disk(self.length) and (full := self.factory.server.room.refuses(self.address, self.length or 1)):
            self.refuse(full)
        else:
            self.phase, self.held = "asking", []
            self.expect_within(None)
            self._networkProducer.pauseProducing()
            self.asking = asyncio.ensure_future(self.ask(request))

    async def ask(self, request: Announced) -> None:
        """Whether this body may come in. Nothing of it is read meanwhile but what came with the head."""
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

    def requestDone(self, request: Announced) -> None:
        self.phase = "idle"
        super().requestDone(request)

    # What is refused

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse_head()

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders:
            self.refuse_head()
        else:
            self.refuse(Refusal(400, "invalid_http", "The request cannot be read: it is not valid HTTP/1.1."))

    def refuse_head(self) -> None:
        most = f"{self.totalHeadersSize} bytes and {self.maxHeaders} headers"
        self.refuse(Refusal(431, "headers_too_large", f"The URL and the headers of a request have at most {most}."))

    def refuse_size(self, request: Announced, found: str) -> None:
        limit, route = request.limit, f"{request.method.decode('latin-1')} {request.route}"
        words = f"{found}; {route} takes at most {limit.bytes} ({limit.reason})."
        self.refuse(Refusal(413, "request_too_large", words))

    def refuse_unstored(self, error: OSError) -> None:
        logger.error("cannot store a request body in %s: %s", tempfile.gettempdir(), error)
        if error.errno in descriptors.EXHAUSTED:
            self.factory.server.tell_no_descriptors()
        self.refuse(failure(error) or Refusal(500, "storage_failed", "The server cannot store the request."))

    def refuse(self, refusal: Refusal, lingers: bool = True) -> None:
        """Answer and close, in such a way that a client that is still sending comes to read the answer.

        Closing with unread data would reset the connection, and take the answer with it: so we only say that
        there is no more from us, and throw away what comes until the client closes too, within bounds. One that does
        not linger is closed at once, and holds nothing: most clients come to read the answer even so.
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
        self.transport.doWrite()  # now: should the client close first, the reactor would drop what is not yet written
        request.refused(refusal.status, len(body))
        if lingers:
            self._abortingCall = self.callLater(LINGER_SECONDS, self.forceAbortClient)
        else:
            with contextlib.suppress(OSError):  # nothing is there
                self.transport.getHandle().recv(UNASKED)
            self.transport.loseConnection()
