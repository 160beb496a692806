"""The web server: Daphne, with a bound on what a request may send and on what it costs in memory.

Daphne spools a request's body and then reads all of it into memory, and writes a response without looking whether
anybody reads it. Here the application reads the spooled body piece by piece, waits while the client does not read,
and what is too large, too slow or not HTTP is answered at the door, in the API's error envelope.

Knows no Django, no route and no setting: the application and the limits are arguments of `serve`.
"""

import asyncio
import errno
import json
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, BinaryIO

# Daphne before Twisted: it installs the reactor that runs on asyncio.
from daphne.endpoints import build_endpoint_description_strings
from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.server import Server as DaphneServer
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import formatEvent, globalLogPublisher
from twisted.protocols.basic import LineReceiver
from twisted.web.http import NO_BODY_CODES, RESPONSES, HTTPChannel

from vbs import logs

logger = logging.getLogger(__name__)
access_log = logging.getLogger("vbs.access")

KB, MB = 1024, 1024 * 1024
CHUNK = 256 * KB  # what the application gets at a time; a smaller body is never on disk
IDLE_SECONDS = 60  # a request must be complete, and its body must move, within this
STALLED_SECONDS = 600  # a client that reads nothing of its answer for so long is gone
# Many clients look for an answer only when they have sent everything. A refused one may go on for so long:
LINGER_SECONDS, LINGER_BYTES = 30, 1024 * MB
GRACE_SECONDS = 1.0  # at the end, for requests to finish by themselves, and again for those that were cancelled
EXIT_SECONDS = 2.7  # and then even a thread that does not come back keeps nobody waiting

CLIENT_CLOSED = 499  # in the access log only, as nginx has it
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Message = dict[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


@dataclass(frozen=True)
class Limit:
    """How large a body may be, and why: the name of the setting, where there is one."""

    bytes: int
    reason: str


Limits = Callable[[str, str, str], Limit]
"""(method, path, content type) → the limit of the body, known before any of it is received."""


def limits(max_file_mb: int, max_batch_mb: int = 200) -> Limits:
    """The limits of our own routes; multipart bodies get more than the file that they carry: what is typed with it."""
    batch = Limit((max_batch_mb + 4) * MB, f"VBS_MAX_BATCH_MB is {max_batch_mb}")
    file = Limit((max_file_mb + 1) * MB, f"VBS_MAX_FILE_MB is {max_file_mb}")
    part = Limit((64 + 1) * MB, "a part has at most 64 MB")
    other = Limit(4 * MB, "only files sent as multipart/form-data may be larger")
    part_path = re.compile(r"/v1/uploads/[^/]+/parts")

    def limit(method: str, path: str, content_type: str) -> Limit:
        if method == "POST" and content_type.lower().startswith("multipart/form-data"):
            if path in ("/v1/files", "/v1/batches"):
                return file
            if path in ("/batches/new", "/batches/new/check"):
                return batch
            if part_path.fullmatch(path):
                return part
        return other

    return limit


def envelope(status: int, code: str, message: str) -> bytes:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def spool(length: int | None) -> BinaryIO:
    """Where a body of this length (None: unknown) waits until it is complete.

    A file has no name, so that it is gone with the process, and no buffer, so that a full disk shows at once.
    """
    if length is not None and length <= CHUNK:
        return BytesIO()
    return tempfile.TemporaryFile(buffering=0)


class Channel(HTTPChannel):
    """One connection: refuses what must not come in, and tells requests when the client is not reading."""

    requests: list["Request"]
    refused = False
    drained = 0
    timeOut: float | None
    idle_timer: Any = None  # one a connection, moved when it fires; Twisted would make one for each request

    def __init__(self) -> None:
        super().__init__()
        self.writable = asyncio.Event()
        self.writable.set()

    def setTimeout(self, period: float | None) -> float | None:
        previous, self.timeOut = self.timeOut, period
        self.resetTimeout()
        if period is not None and self.idle_timer is None:
            self.idle_timer = self.callLater(period, self.check_idle)
        return previous

    def resetTimeout(self) -> None:
        self.moved = time.monotonic()

    def check_idle(self) -> None:
        self.idle_timer = None
        if self.timeOut is None:
            return
        left = self.moved + self.timeOut - time.monotonic()
        if left > 0:
            self.idle_timer = self.callLater(left, self.check_idle)
        else:
            self.timeoutConnection()

    def pauseProducing(self) -> None:
        self.writable.clear()
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self.writable.set()
        super().resumeProducing()

    def connectionLost(self, reason: Any) -> None:
        super().connectionLost(reason)
        self.writable.set()
        if self.idle_timer is not None:
            self.idle_timer.cancel()

    def dataReceived(self, data: bytes) -> None:
        if self.refused:
            self.drained += len(data)
            if self.drained > LINGER_BYTES:
                self.transport.abortConnection()
            return
        if not self.line_mode:  # a head that arrives in drops makes no progress; a body does
            self.resetTimeout()
        LineReceiver.dataReceived(self, data)

    def rawDataReceived(self, data: bytes) -> None:
        if not self.refused:
            super().rawDataReceived(data)

    def allHeadersReceived(self) -> None:
        self.resetTimeout()
        request = self.requests[-1]
        request.announce(self._command, self._path)
        if self.length is not None and self.length > request.limit.bytes:
            self.refuse_size(request, f"The request body has {self.length} bytes")
            return
        try:
            super().allHeadersReceived()
        except OSError as error:
            self.refuse_unstored(error)

    def allContentReceived(self) -> None:
        if not self.refused:
            super().allContentReceived()

    def timeoutConnection(self) -> None:
        if self.requests and not self.refused:
            self.refuse(408, "request_timeout", f"Nothing more of the request came for {self.timeOut} seconds.")
        else:
            super().timeoutConnection()

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse_head()

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > self.maxHeaders:
            self.refuse_head()
        else:
            self.refuse(400, "invalid_http", "The request cannot be read: it is not valid HTTP/1.1.")

    def refuse_head(self) -> None:
        most = f"{self.totalHeadersSize} bytes and {self.maxHeaders} headers"
        self.refuse(431, "headers_too_large", f"The URL and the headers of a request have at most {most}.")

    def refuse_size(self, request: "Request", found: str) -> None:
        limit, route = request.limit, f"{request.method.decode()} {request.route}"
        self.refuse(413, "request_too_large", f"{found}; {route} takes at most {limit.bytes} ({limit.reason}).")

    def refuse_unstored(self, error: OSError) -> None:
        logger.error("cannot store a request body in %s: %s", tempfile.gettempdir(), error)
        if error.errno in NO_SPACE:
            self.refuse(507, "insufficient_storage", "The server's disk is full; the request was not accepted.")
        else:
            self.refuse(500, "storage_failed", "The server cannot store the request; it was not accepted.")

    def refuse(self, status: int, code: str, message: str) -> None:
        """Answer and close, in such a way that a client that is still sending comes to read the answer.

        Closing with unread data would reset the connection, and take the answer with it: so we only say that
        there is no more from us, and throw away what comes until the client closes too, within bounds.
        """
        if self.refused:
            return
        self.refused = True
        self.setTimeout(None)
        self.clearLineBuffer()
        self.setRawMode()
        if not self.requests:
            self.requests.append(self.requestFactory(self))
        request = self.requests[-1]
        body = envelope(status, code, message)
        head = (
            f"HTTP/1.1 {status} {RESPONSES.get(status, b'Refused').decode()}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nX-Request-ID: {request.id}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.loseWriteConnection()
        self.transport.doWrite()  # now: should the client close first, the reactor would drop what is not yet written
        request.refused(status, len(body))
        self._abortingCall = self.callLater(LINGER_SECONDS, self.forceAbortClient)


class Request(WebRequest):
    """One request: its body goes to the application as that asks for it, its response as the client takes it."""

    channel: Channel
    content: BinaryIO
    method = b"-"
    route = "-"
    limit: Limit

    def __init__(self, channel: Channel, queued: Any = False) -> None:
        super().__init__(channel, queued, False)  # False: Twisted would parse forms, files included, in memory
        self.arrived = time.monotonic()
        self.id = logs.request_id(None)
        self.announced = False
        self.received = self.given = 0  # bytes of the body: from the client, to the application
        self.handed_over = False
        self.over = asyncio.Event()  # answered in full, or the client is gone

    def announce(self, method: bytes, uri: bytes) -> None:
        """The head is here: from now on the request has a name, an id and a limit."""
        self.method, self.uri = method, uri
        self.route = uri.partition(b"?")[0].decode("latin-1")
        self.announced = True
        if given := self._header(b"x-request-id"):
            self.id = logs.request_id(given)
        self.requestHeaders.setRawHeaders(b"x-request-id", [self.id.encode()])
        self.limit = self.server.limits(method.decode("latin-1"), self.route, self._header(b"content-type"))

    def _header(self, name: bytes) -> str:
        values: list[bytes] = self.requestHeaders.getRawHeaders(name, [b""])
        return values[0].decode("latin-1")

    # In

    def gotLength(self, length: int | None) -> None:
        self.content = spool(length)

    def handleContentChunk(self, data: bytes) -> None:
        if self.channel.refused:
            return
        self.received += len(data)
        if self.received > self.limit.bytes:
            self.channel.refuse_size(self, f"The request body has more than {self.limit.bytes} bytes")
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self.content.write(rest) :]
        except OSError as error:
            self.channel.refuse_unstored(error)

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
            await asyncio.sleep(0)  # between the pieces of a large body it is the others' turn
        return {"type": "http.request", "body": body, "more_body": not self.handed_over}

    # Out

    async def send(self, message: Message) -> None:
        """Write, and return when there is room for more; silent when the client is gone, which receive() tells."""
        if self.over.is_set():
            await asyncio.sleep(0)
            return
        channel = self.channel
        self.server.check_headers_type(message)
        if message["type"] == "http.response.body" and (self.method == b"HEAD" or self.code in NO_BODY_CODES):
            message = {"type": "http.response.body"}  # Daphne would write every piece but the first
        self.handle_reply(message)
        if not channel.writable.is_set() and not self.over.is_set():
            try:
                async with asyncio.timeout(STALLED_SECONDS):
                    await channel.writable.wait()
            except TimeoutError:
                channel.transport.abortConnection()

    def finish(self) -> None:
        super().finish()
        self.over.set()

    def refused(self, status: int, size: int) -> None:
        self.code, self.sentLength = status, size
        if self.content is not None:  # it has none before its length is known
            self.content.close()
        self.channel.factory.log(self)

    def connectionLost(self, reason: Any) -> None:
        if self.announced and not self.channel.refused:
            self.code = CLIENT_CLOSED
            self.channel.factory.log(self)
        super().connectionLost(reason)
        self.over.set()

    def basic_error(self, status: int, status_text: bytes, body: str) -> None:
        """What Daphne itself answers: a page for people, the envelope under /v1/."""
        if self._response_started:  # too late for an answer; the client must not take this for the whole
            self.channel.transport.abortConnection()
            return
        self.setHeader(b"x-request-id", self.id.encode())
        if not self.route.startswith("/v1/"):
            super().basic_error(status, status_text, body)
            return
        if status == 500:
            body = f"The server failed to answer; its log says more under {self.id}."
        content = envelope(status, status_text.decode().lower().replace(" ", "_"), body)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        self.handle_reply({"type": "http.response.start", "status": status, "headers": headers})
        self.handle_reply({"type": "http.response.body", "body": content})


class Factory(HTTPFactory):
    """Makes our channels and requests, and writes the access log: one line a request, without its query."""

    protocol = Channel  # Twisted's own choice puts a proxy before it, for HTTP/2

    def buildProtocol(self, addr: Any) -> Channel:
        channel: Channel = super().buildProtocol(addr)
        channel.requestFactory = Request
        channel.timeOut = IDLE_SECONDS
        return channel

    def log(self, request: Request) -> None:
        method, path, status, size = request.method.decode("latin-1"), request.route, request.code, request.sentLength
        ms = round((time.monotonic() - request.arrived) * 1000, 1)
        with logs.bind(request_id=request.id):
            access_log.info(
                "%s %s %d %s ms %d bytes", method, path, status, ms, size,
                extra={"method": method, "path": path, "status": status, "ms": ms, "bytes": size},
            )  # fmt: skip


class Server(DaphneServer):
    """Daphne with our factory: it starts an application at once, hears of its end at once, and stops in time."""

    # run() makes Daphne's own factory and sets it here.
    http_factory = property(lambda self: self.factory, lambda self, made_by_daphne: None)

    def __init__(self, application: Application, limits: Limits, host: str, port: int) -> None:
        super().__init__(
            application,
            endpoints=build_endpoint_description_strings(host=host, port=port),
            action_logger=self.log_websocket,
            ready_callable=self.ready,
            server_name="vbs",
        )
        self.limits = limits
        self.factory = Factory(self)
        self.bind_error: CannotListenError | None = None

    def ready(self) -> None:
        for host, port in self.listening_addresses:
            logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)

    def listen_error(self, failure: Any) -> None:
        self.bind_error = failure.value
        self.stop()

    def log_websocket(self, protocol: str, action: str, details: dict[str, Any]) -> None:
        if protocol == "websocket" and action in ("connected", "rejected", "disconnected"):
            access_log.info("WEBSOCKET %s %s", details["path"], action)

    def create_application(self, protocol: Any, scope: Message) -> Any:
        if not isinstance(protocol, Request):
            return super().create_application(protocol, scope)
        scope.setdefault("asgi", {"version": "3.0"})
        with logs.bind(request_id=protocol.id):  # the task takes it along
            task = asyncio.ensure_future(self.application(scope, protocol.receive, protocol.send))
        self.connections[protocol]["application_instance"] = task
        task.add_done_callback(partial(self.application_done, protocol))
        return None  # no queue: Daphne then leaves the body to receive()

    def application_done(self, request: Request, task: "asyncio.Task[None]") -> None:
        """Answer at once for an application that failed; Daphne looks only once a second."""
        connection = self.connections.get(request, {})
        connection.pop("application_instance", None)
        if "disconnected" in connection:
            del self.connections[request]
        error = None if task.cancelled() else task.exception()
        if error or not (request.over.is_set() or task.cancelled()):
            with logs.bind(request_id=request.id):
                problem = "failed" if error else "returned without a complete answer"
                logger.error(
                    "%s %s: the application %s", request.method.decode(), request.route, problem, exc_info=error
                )
        if not request.over.is_set():
            if task.cancelled():
                request.basic_error(503, b"Service Unavailable", "The server is stopping; try again in a few seconds.")
            else:
                request.basic_error(500, b"Internal Server Error", "Exception inside application.")

    def kill_all_applications(self) -> Deferred:
        """Stop taking connections, let requests finish for a moment, cancel what is left."""
        logger.info("stopping")
        watchdog = threading.Timer(EXIT_SECONDS, os._exit, (0,))
        watchdog.daemon = True
        watchdog.start()
        return Deferred.fromFuture(asyncio.ensure_future(self._wind_up()))

    async def _wind_up(self) -> None:
        for listener in self.listeners:
            listener.addCallback(lambda port: port.stopListening())
        running = {task for c in self.connections.values() if (task := c.get("application_instance"))}
        if running:
            _, running = await asyncio.wait(running, timeout=GRACE_SECONDS)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=GRACE_SECONDS)


def serve(application: Application, limits: Limits, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; the log says where (port 0 takes a free one).

    Once in a process. Raises OSError when the address is not to be had.
    """
    globalLogPublisher.addObserver(_log_failure)
    server = Server(application, limits, host, port)
    server.run()
    if server.bind_error:
        raise OSError(f"cannot listen on {host}:{port}: {server.bind_error.socketError}") from server.bind_error
    logger.info("stopped")


def _log_failure(event: dict[str, Any]) -> None:
    """Twisted's log is off, but an exception that ended up there is a bug of ours."""
    if failure := event.get("log_failure"):
        exc_info = (failure.type, failure.value, failure.getTracebackObject())
        logger.error("%s", formatEvent(event), exc_info=exc_info)
