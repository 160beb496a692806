"""Daphne with our factory: listens, starts an application for each request, and stops in time."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

# Daphne before Twisted: it installs the reactor that runs on asyncio.
from daphne.endpoints import build_endpoint_description_strings
from daphne.http_protocol import HTTPFactory
from daphne.server import Server as DaphneServer
from daphne.ws_protocol import WebSocketFactory
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import formatEvent, globalLogPublisher

from vbs import logs
from vbs.run import descriptors
from vbs.web.channel import Channel
from vbs.web.guests import Guests
from vbs.web.limits import Bounds, Limits
from vbs.web.refusal import Admit, Head, Refusal, failure, later
from vbs.web.request import Message, Request
from vbs.web.sockets import Socket
from vbs.web.spool import Room

logger = logging.getLogger(__name__)
access_log = logging.getLogger("vbs.access")

GRACE_SECONDS = 1.0  # at the end, for requests to finish by themselves, and again for those that were cancelled
EXIT_SECONDS = 2.7  # and then even a thread that does not come back keeps nobody waiting
REST_SECONDS = 0.5  # without new connections, when there are no descriptors for them
DOORKEEPERS = 4  # threads that ask who may send a large body

Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


class Factory(HTTPFactory):
    """Makes our channels and requests, and writes the access log: one line a request, without its query."""

    protocol = Channel  # Twisted's own choice puts a proxy before it, for HTTP/2

    def __init__(self, server: "Server", bounds: Bounds) -> None:
        super().__init__(server)
        self.bounds = bounds
        self.guests = Guests(bounds)
        self.lingering: set[Channel] = set()  # those that were refused and may still read why

    def buildProtocol(self, addr: Any) -> Channel:
        channel: Channel = super().buildProtocol(addr)
        channel.requestFactory = Request
        channel.timeOut = self.bounds.idle_seconds
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
    ws_factory = property(lambda self: self.sockets, lambda self, made_by_daphne: self.take_sockets(made_by_daphne))

    def __init__(
        self, application: Application, limits: Limits, admit: Admit, host: str, port: int, bounds: Bounds
    ) -> None:
        super().__init__(
            application,
            endpoints=build_endpoint_description_strings(host=host, port=port),
            action_logger=self.log_websocket,
            ready_callable=self.ready,
            server_name="vbs",
        )
        self.limits, self.admit, self.bounds = limits, admit, bounds
        self.factory = Factory(self, bounds)
        self.room = Room(bounds.spool)
        self.doorkeepers = ThreadPoolExecutor(DOORKEEPERS, "doorkeeper")
        self.ports: list[Any] = []
        self.resting = False
        self.bind_error: CannotListenError | None = None

    def take_sockets(self, factory: WebSocketFactory) -> None:
        factory.protocol = Socket
        self.sockets = factory

    def ready(self) -> None:
        for host, port in self.listening_addresses:
            logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        self.ports.append(port)

    def listen_error(self, failure: Any) -> None:
        self.bind_error = failure.value
        self.stop()

    def log_websocket(self, protocol: str, action: str, details: dict[str, Any]) -> None:
        if protocol == "websocket" and action in ("connected", "rejected", "disconnected"):
            access_log.info("WEBSOCKET %s %s", details["path"], action)

    async def ask(self, head: Head) -> Refusal | None:
        """Whether a large body may come in, asked in a thread: who knows it may have to ask the database."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.doorkeepers, self.admit, head)
        except Exception as error:
            logger.exception("cannot tell whether the body of %s %s may come in", head.method, head.path)
            words = "The server cannot tell now who is asking; nothing was accepted. Try again in a few seconds."
            return failure(error) or later(503, "service_unavailable", words)

    def create_application(self, protocol: Any, scope: Message) -> Any:
        if not isinstance(protocol, Request):
            return super().create_application(protocol, scope)
        scope.setdefault("asgi", {"version": "3.0"})
        if protocol.length is None:  # it came in chunks; now it is complete, so its length is known
            kept = [one for one in scope["headers"] if one[0] not in (b"transfer-encoding", b"content-length")]
            scope["headers"] = [*kept, (b"content-length", b"%d" % protocol.received)]
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
            if refusal := failure(error):
                request.answer(refusal)
            elif task.cancelled():
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

    # What Twisted says

    def hear(self, event: dict[str, Any]) -> None:
        """Twisted's log is off, but two things in it are for ours: exceptions, which are bugs of ours, and connections
        that it cannot take."""
        if failure := event.get("log_failure"):
            exc_info = (failure.type, failure.value, failure.getTracebackObject())
            logger.error("%s", formatEvent(event), exc_info=exc_info)
        elif str(event.get("log_format", "")).startswith(("EMFILE encountered", "Could not accept new connection")):
            self.tell_no_descriptors(formatEvent(event))

    def tell_no_descriptors(self, said: str = "") -> None:
        """Say it, and take no new connections for a moment: without that we would be told again at once, for ever."""
        if self.resting:
            return
        self.resting = True
        logger.error(
            "no descriptor is left for connections and files: this process may open %d (ulimit -n). %s",
            descriptors.limit(), said,
        )  # fmt: skip
        for port in self.ports:
            port.stopReading()
        reactor.callLater(REST_SECONDS, self.go_on)

    def go_on(self) -> None:
        self.resting = False
        for port in self.ports:
            if port.connected:
                port.startReading()


def serve(
    application: Application, limits: Limits, admit: Admit, host: str, port: int, bounds: Bounds | None = None
) -> None:
    """Serve until SIGTERM or SIGINT; the log says where (port 0 takes a free one).

    Once in a process. Raises OSError when the address is not to be had.
    """
    server = Server(application, limits, admit, host, port, bounds or Bounds())
    globalLogPublisher.addObserver(server.hear)
    server.run()
    if server.bind_error:
        raise OSError(f"cannot listen on {host}:{port}: {server.bind_error.socketError}") from server.bind_error
    logger.info("stopped")
