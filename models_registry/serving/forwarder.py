"""Lets web processes on other hosts ask this worker's engine, whose socket only processes on this one can open.

It listens where VBS_WORKER_URL says, wants a key that every process with the server's secret key can derive, and passes
requests on to the engine that engine.json describes.
"""

import asyncio
import hashlib
import hmac
import logging
import threading
from pathlib import Path

import aiohttp
from aiohttp import web
from django.conf import settings

from models_registry.engine import server
from models_registry.engine.client import authorization, open_session
from models_registry.engine.spec import Address
from vbs.openai.errors import envelope
from vbs.openai.routes import INTERACTIVE
from vbs.outgoing.client import PORTS, split_url
from vbs.web.limits import MB

log = logging.getLogger(__name__)

PURPOSE = b"vbs: the engines of workers on other hosts"  # another purpose gives another key
PASSED_ON = ("Content-Type", "Retry-After")  # headers of an answer


def address(url: str) -> Address:
    """Where the engine of the worker with this URL is asked from another host."""
    key = hmac.new(settings.SECRET_KEY.encode(), PURPOSE, hashlib.sha256).hexdigest()
    return Address(f"{url.rstrip('/')}/v1", key=key)


def start(home: Path) -> None:
    """Called when a GPU worker starts, with the folder of its engine."""
    if settings.VBS_WORKER_URL:
        Forwarder(settings.VBS_WORKER_URL, home).start()


class Forwarder:
    """home: the folder of the worker's engine."""

    def __init__(self, url: str, home: Path) -> None:
        self.home, self._wanted = home, authorization(address(url))["Authorization"]
        self.port = split_url(url).port or PORTS[split_url(url).scheme]

    def start(self) -> None:
        """Serve in a thread of its own, until the process ends."""
        threading.Thread(target=lambda: asyncio.run(self._serve()), name="forwarder", daemon=True).start()

    async def _serve(self) -> None:
        most = (settings.VBS_MAX_LINE_MB + 1) * MB
        application = web.Application(client_max_size=most)
        application.add_routes([web.post(route, self._pass_on) for route in INTERACTIVE])
        # A request whose client is gone is cancelled, and so is the engine's work on it.
        runner = web.AppRunner(application, handler_cancellation=True, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, port=self.port).start()
        except OSError as error:
            log.error("Worker: other hosts cannot reach its engine (VBS_WORKER_URL): %s", error)
            return
        log.info("Worker: other hosts reach its engine on port %d", self.port)
        await asyncio.Event().wait()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), self._wanted.encode()):
            words = "Only web processes with the same VBS_SECRET_KEY may ask this engine."
            return web.json_response(envelope(words, "authentication_error", None, "invalid_api_key"), status=401)
        engine = server.read_state(self.home)
        if engine is None:
            words = "This worker's engine is not loaded any more."
            return web.json_response(envelope(words, "server_error", None, "engine_unavailable"), status=503)
        headers = {"X-Request-Id": request.headers.get("X-Request-Id", "")} | authorization(engine.address)
        url = engine.address.url + request.path.removeprefix("/v1")
        try:
            async with (
                open_session(engine.address, private=False, limit=1, seconds=0) as session,
                session.post(url, data=await request.read(), headers=headers) as answer,
            ):
                passed = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
                response = web.StreamResponse(status=answer.status, headers=passed)
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
                return response
        except (aiohttp.ClientError, OSError) as error:  # what has come of the answer is not taken for the whole
            log.warning(
                "Worker: its engine does not answer a request of another host: %s", error or type(error).__name__
            )
            if request.transport:
                request.transport.abort()
            raise
