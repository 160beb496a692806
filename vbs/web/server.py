"""Daphne's server with our connections: it listens, starts the application for each request, and stops in time."""

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
from vbs.web.connections import OpenConnections
from vbs.web.limits import BodyLimits, Bounds
from vbs.web.refusal import Admit, Refusal, RequestHead, out_of_resources, try_later
from vbs.web.request import Message, Request
from vbs.web.sockets import Socket
from vbs.web.spool import SpoolSpace

logger = logging.getLogger(__name__)
access_log = logging.getLogger("vbs.access")

GRACE_SECONDS = 1.0  # when it stops: for requests to finish by themselves, and again for those that it cancels
EXIT_SECONDS = 2.7  # after that the process exits, even if a thread of it hangs
ACCEPT_PAUSE_SECONDS = 0.5  # without new connections, after no descriptor was left for one
ADMISSION_THREADS = 4  # threads that ask whether a large body may come in

Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


class Factory(HTTPFactory):
    """Makes our channels and requests, and writes the access log: a line for each request, without its query."""

    protocol = Channel  # Twisted's default puts a proxy before it, for HTTP/2

    def __init__(self, server: "Server", bounds: Bounds) -> None:
        super().__init__(server)
        self.bounds = bounds
        self.open_connections = OpenConnections(bounds)
        self.lingering: set[Channel] = set()  # connections that were refused and still have time to read why

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
    """Daphne's server: it starts the application at once, learns of its end at once, and stops in time."""

    # run() makes Daphne's own factory and sets it here.
    http_factory = property(lambda self: self.factory, lambda self, made_by_daphne: None)
    ws_factory = property(lambda self: self.sockets, lambda self, made_by_daphne: self.take_sockets(made_by_daphne))

    def __init__(
        self, application: Application, limits: BodyLimits, admit: Admit, host: str, port: int, bounds: Bounds
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
        self.spool_space = SpoolSpace(bounds.spool)
        self.admission_threads = ThreadPoolExecutor(ADMISSION_THREADS, "admission")
        self.ports: list[Any] = []
        self.accepting_paused = False
        self.bind_error: CannotListenError | None = None

    def take_sockets(self, factory: WebSocketFactory) -> None:
        factory.protocol = Socket
        self.sockets = factory

    def ready(self) -> None:
        for host, port in self.listening_addresses:
            logger.info("Web server: listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        self.ports.append(port)

    def listen_error(self, failure: Any) -> None:
        self.bind_error = failure.value
        self.stop()

    def log_websocket(self, protocol: str, action: str, details: dict[str, Any]) -> None:
        if protocol == "websocket" and action in ("connected", "rejected", "disconnected"):
            access_log.info("WEBSOCKET %s %s", details["path"], action)

    async def ask(self, head: RequestHead) -> Refusal | None:
        """Ask whether a large body may come in. It runs in a thread, because it may query the database."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.admission_threads, self.admit, head)
        except Exception as error:
            logger.exception("Request %s %s: it cannot be told whether its body may come in", head.method, head.path)
            words = "The server cannot check your key now, so nothing was accepted. Try again in a few seconds."
            return out_of_resources(error) or try_later(503, "service_unavailable", words)

    def create_application(self, protocol: Any, scope: Message) -> Any:
        if not isinstance(protocol, Request):
            return super().create_application(protocol, scope)
        scope.setdefault("asgi", {"version": "3.0"})
        if protocol.length is None:  # the body came in chunks; it is complete now, so its length is known
            kept = [one for one in scope["headers"] if one[0] not in (b"transfer-encoding", b"content-length")]
            scope["headers"] = [*kept, (b"content-length", b"%d" % protocol.received)]
        with logs.bind(request_id=protocol.id):  # the task copies the context
            task = asyncio.ensure_future(self.application(scope, protocol.receive, protocol.send))
        self.connections[protocol]["application_instance"] = task
        task.add_done_callback(partial(self.application_done, protocol))
        return None  # not a queue: then Daphne leaves the body to receive()

    def application_done(self, request: Request, task: "asyncio.Task[None]") -> None:
        """Answer at once where the application failed: Daphne looks only once a second."""
        connection = self.connections.get(request, {})
        connection.pop("application_instance", None)
        if "disconnected" in connection:
            del self.connections[request]
        error = None if task.cancelled() else task.exception()
        if error or not (request.over.is_set() or task.cancelled()):
            with logs.bind(request_id=request.id):
                problem = "failed" if error else "returned without a complete answer"
                logger.error(
                    "Request %s %s: the application %s", request.method.decode(), request.route, problem, exc_info=error
                )
        if not request.over.is_set():
            if refusal := out_of_resources(error):
                request.answer(refusal)
            elif task.cancelled():
                request.basic_error(503, b"Service Unavailable", "The server is stopping. Try again in a few seconds.")
            else:
                request.basic_error(500, b"Internal Server Error", "Exception inside application.")

    def kill_all_applications(self) -> Deferred:
        """Stop accepting connections, let requests finish for a moment, then cancel those that are left."""
        logger.info("Web server: stopping")
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

    # What Twisted reports

    def on_twisted_event(self, event: dict[str, Any]) -> None:
        """Twisted's own log is off. Two kinds of its events go to ours: exceptions, and connections that could not be
        accepted."""
        if failure := event.get("log_failure"):
            exc_info = (failure.type, failure.value, failure.getTracebackObject())
            logger.error("%s", formatEvent(event), exc_info=exc_info)
        elif str(event.get("log_format", "")).startswith(("EMFILE encountered", "Could not accept new connection")):
            self.report_no_descriptors(formatEvent(event))

    def report_no_descriptors(self, detail: str = "") -> None:
        """Log it, and accept no connection for a moment: otherwise the same event comes again at once, and again."""
        if self.accepting_paused:
            return
        self.accepting_paused = True
        logger.error(
            "Web server: no descriptor is left for connections and files; this process may open %d (ulimit -n). %s",
            descriptors.limit(), detail,
        )  # fmt: skip
        for port in self.ports:
            port.stopReading()
        reactor.callLater(ACCEPT_PAUSE_SECONDS, self.accept_again)

    def accept_again(self) -> None:
        self.accepting_paused = False
        for port in self.ports:
            if port.connected:
                port.startReading()


def serve(
    application: Application, limits: BodyLimits, admit: Admit, host: str, port: int, bounds: Bounds | None = None
) -> None:
    """Serve until SIGTERM or SIGINT. The log says where: port 0 takes a free one.

    It can be called once in a process. Raises OSError when it cannot listen there.
    """
    server = Server(application, limits, admit, host, port, bounds or Bounds())
    globalLogPublisher.addObserver(server.on_twisted_event)
    server.run()
    if server.bind_error:
        raise OSError(f"cannot listen on {host}:{port}: {server.bind_error.socketError}") from server.bind_error
    logger.info("Web server: stopped")
