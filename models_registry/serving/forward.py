"""Passes an interactive request on to its engine, and the answer back as it comes."""

import asyncio
import logging
import random
import secrets
import time
from dataclasses import dataclass, field

import aiohttp
import orjson
from django.conf import settings

from models_registry.engine import error_bodies
from models_registry.engine.client import authorization
from models_registry.engine.error_bodies import PATIENCE, clean
from models_registry.engine.spec import Address
from models_registry.serving import answers, body, links, swap
from models_registry.serving.answers import AnswerTooLong, Events, Usage
from models_registry.serving.engines import NotLoaded, Served
from models_registry.serving.ledger import ledger
from vbs.accounts.models import Project
from vbs.configuration import runtime
from vbs.http.later import LaterAnswer, Send, piece
from vbs.http.streams import OpenStreams
from vbs.openai import lengths, raw_json
from vbs.openai.errors import TYPES, ApiError, BadGateway, GatewayTimeout, TooMany, Unavailable
from vbs.openai.raw_json import Members
from vbs.outgoing.client import AddressError

log = logging.getLogger(__name__)

MOST_ERROR = 2**20  # bytes of an engine's error
CLIENT_CLOSED = 499  # in the log only, as the access log has it
EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}
LOST = (aiohttp.ClientError, OSError)  # what an engine that is gone looks like
CHECK = "Check that it runs, and that its URL is right."
NOT_REACHED = "the model's server cannot be reached (it does not answer)"
NOT_ALLOWED = "the model's server is not asked, because its address is not allowed"

in_flight = OpenStreams()  # by project


@dataclass
class Asked:
    """A request that was checked. path: below `/v1`. name: the model, as the client names it. found: the engine, or the
    id of the operation that loads the model."""

    project: Project
    path: str
    name: str
    members: Members
    found: Served | str
    request_id: str
    usage: Usage = field(default_factory=Usage)
    status: int = CLIENT_CLOSED


class _Elsewhere(Exception):
    """The server is busy, and another has the model too."""


class EngineError(ApiError):
    """The engine's own refusal, in our envelope."""

    def __init__(self, status: int, message: str, code: str, param: str | None, wait: str = "") -> None:
        super().__init__(message, param=param, code=code)
        self.status_code, self.wait = status, wait
        self.type = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")

    def headers(self) -> dict[str, str]:
        return super().headers() | ({"Retry-After": self.wait} if self.wait else {})


class Forwarded(LaterAnswer):
    """The answer of an engine. It is begun when Django is done with the request."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(content_type="application/json")
        self.asked = asked
        self.started = self.hides_usage = False

    async def answer(self, send: Send) -> None:
        asked, began = self.asked, time.monotonic()
        most = runtime.value("VBS_MAX_INTERACTIVE")
        if not in_flight.start(str(asked.project.pk), most):
            words = f"Your project has {most} direct requests running, which is the most (VBS_MAX_INTERACTIVE)."
            await self._refuse(TooMany(f"{words} Wait until one of them has ended.", code="rate_limit_exceeded"), send)
            return
        try:
            await self._answer(send)
        finally:
            in_flight.end(str(asked.project.pk))
            _tell(asked, time.monotonic() - began)

    async def _answer(self, send: Send) -> None:
        seconds = runtime.value("VBS_REQUEST_SECONDS")
        try:
            async with asyncio.timeout(seconds):
                found = self.asked.found
                served = (
                    found if isinstance(found, Served) else await swap.loaded(self.asked.name, self.asked.path, found)
                )
                ledger.began(served.worker)
                try:
                    await self._forward(served, send)
                finally:
                    self._count(served)
            return
        except TimeoutError:
            error: ApiError = GatewayTimeout(
                f"The answer was not complete within {seconds} s (VBS_REQUEST_SECONDS). Ask for fewer tokens, or "
                "send it again."
            )
        except ApiError as refused:
            error = refused
        self.asked.status = error.status_code
        if self.started:  # the status is sent already: an event tells what happened, and no `[DONE]` comes
            await send(piece(b"data: " + orjson.dumps(error.body()) + b"\n\n"))
            await send(piece(b"", more=False))
        else:
            await self._refuse(error, send)

    def _count(self, served: Served) -> None:
        asked, usage = self.asked, self.asked.usage
        failed = not 200 <= asked.status < 300
        ledger.ended(served.worker, asked.project, served.name, failed, usage.input_tokens, usage.output_tokens)

    async def _refuse(self, error: ApiError, send: Send) -> None:
        await self._whole(error.status_code, orjson.dumps(error.body()), error.headers(), send)

    async def _whole(self, status: int, content: bytes, headers: dict[str, str], send: Send) -> None:
        self.asked.status = status
        fixed = {"content-type": "application/json", "content-length": str(len(content))}
        await send(self.head(status, fixed | headers))
        await send(piece(content, more=False))

    async def _forward(self, served: Served, send: Send) -> None:
        """Raises ApiError."""
        asked = self.asked
        if most := runtime.value("VBS_DEFAULT_MAX_TOKENS"):
            lengths.limit(f"/v1{asked.path}", asked.members, raw_json.raw(most))
        self.hides_usage = body.streams(asked.members) and body.ask_usage(asked.path, asked.members)
        content = body.for_engine(asked.members, served, asked.project)
        named = {"X-Request-Id": f"{asked.request_id}-{secrets.token_hex(4)}"}  # a client may send one id twice
        addresses = random.sample(served.addresses, len(served.addresses))
        try:
            for address in addresses:
                try:
                    is_last = address is addresses[-1]
                    await self._send(served, address, named, content, is_last, send)
                    return
                except _Elsewhere:
                    continue
                except LOST:
                    if self.started or address is addresses[-1]:
                        raise
        except AddressError as error:
            log.warning("Request %s: it was not sent: %s", asked.request_id, error)
            ledger.server_failed(served.name, f"the server is not asked: {error}", NOT_ALLOWED)
            raise BadGateway(
                "The request was not sent, because the model's server has no public address. Ask an operator of this "
                "server."
            ) from error
        except AnswerTooLong as error:
            most = settings.VBS_MAX_ANSWER_MB
            raise BadGateway(
                f"The answer has more than {most} MB (VBS_MAX_ANSWER_MB). Ask for a shorter one."
            ) from error
        except LOST as error:
            log.warning(
                "Request %s: %s does not answer: %s", asked.request_id, served.name, error or type(error).__name__
            )
            if served.is_remote and not self.started:
                why = f"the server cannot be reached ({error or type(error).__name__}). {CHECK}"
                ledger.server_failed(served.name, why, NOT_REACHED)
            raise _lost(served, self.started) from error

    async def _send(
        self, served: Served, address: Address, named: dict[str, str], content: bytes, is_last: bool, send: Send
    ) -> None:
        """Send it to this address. Raises _Elsewhere where that is busy and not the last one."""
        url, headers = address.url + self.asked.path, named | authorization(address)
        async with (
            links.session(address, served.private) as session,
            session.post(url, data=content, headers=headers, allow_redirects=False) as response,
        ):
            try:
                if response.status in PATIENCE and not is_last:
                    raise _Elsewhere
                await self._pass_on(response, served, address, send)
            except BaseException:
                response.close()  # the engine stops its work on the request when the connection is gone
                raise

    async def _pass_on(self, response: aiohttp.ClientResponse, served: Served, address: Address, send: Send) -> None:
        asked, most = self.asked, settings.VBS_MAX_ANSWER_MB * 2**20
        if served.is_remote:
            _keep_state(served, address, response.status)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise BadGateway("The model's server sent a compressed answer, although it was asked not to compress it.")
        if not 200 <= response.status < 300:
            raise await _refusal(response, served, address, asked.name)
        if response.content_type != "text/event-stream":
            content, asked.usage = answers.whole(await _read(response, most), served.served_name, asked.name)
            await self._whole(response.status, content, {}, send)
            return
        events = Events(served.served_name, asked.name, self.hides_usage, most)
        asked.usage = events.usage
        self.started = True
        await send(self.head(response.status, EVENTS))
        await send(piece(b""))  # the head goes out with the first piece
        async for data in response.content.iter_any():
            if part := events.take(data):
                await send(piece(part))
        asked.status = response.status
        await send(piece(events.rest(), more=False))


def forwarded(project: Project, path: str, members: Members, request_id: str) -> Forwarded:
    """The answer to this body, for whoever may ask for the project. path: below `/v1`. Raises ApiError."""
    body.check(path, members)
    name = body.model_name(members)
    return Forwarded(Asked(project, path, name, members, swap.find_or_load(name, path, project), request_id))


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Raises AnswerTooLong."""
    content = bytearray()
    async for data in response.content.iter_any():
        content += data
        if len(content) > most:
            raise AnswerTooLong
    return bytes(content)


def _keep_state(served: Served, address: Address, status: int) -> None:
    """Keep whether the server of a remote model is there for us, as this status shows."""
    if status == 401:
        words = error_bodies.key_refused(status, sent=bool(address.key))
        ledger.server_failed(served.name, f"{address.url}: {words}", words)
    elif status < 300 or 400 <= status < 500:
        ledger.server_answered(served.name)


async def _refusal(response: aiohttp.ClientResponse, served: Served, address: Address, name: str) -> ApiError:
    """What the engine says, as our error, with this name of the model. The client cannot help it that a remote server
    refuses our key, or leads elsewhere."""
    status = response.status
    if served.is_remote and status in (401, 403):
        words = error_bodies.key_refused(status, sent=bool(address.key))
        return BadGateway(f"{words[0].upper()}{words[1:]}.")
    if served.is_remote and status < 400:
        return BadGateway(f"The model's server answered {status}: a redirect, which is not followed.")
    found = error_bodies.parsed(error_bodies.without(await _read(response, MOST_ERROR), address.key))
    code, message = error_bodies.refusal(status, found)
    error = found.get("error") if isinstance(found, dict) else None
    param = error.get("param") if isinstance(error, dict) else None
    if status == 404 and param == "model" and not served.is_remote:
        return NotLoaded(f"{served.name} is not loaded any more.", param="model")
    if served.is_remote:  # in its own words, which are not about the models here
        message = f"The server of {name} answered {status}{f': {message}' if found is not None else '.'}"
    else:
        message = message.replace(served.served_name, name)
    wait = response.headers.get("Retry-After", "")
    return EngineError(
        status if status >= 400 else 502,
        message,
        code,
        clean(param, 200) if isinstance(param, str) else None,
        wait if wait.isascii() and wait.isdigit() else "",
    )


def _lost(served: Served, started: bool) -> ApiError:
    where = "The model's server" if served.is_remote else f"The engine of {served.name}"
    what = "ended before its answer was whole" if started else "does not answer"
    return Unavailable(f"{where} {what}. Send the request again in a few seconds.", code="engine_unavailable")


def _tell(asked: Asked, seconds: float) -> None:
    """A line for the operators, without anything that was asked or answered."""
    usage, values = asked.usage, {"project": asked.project.name, "model": asked.name, "status": asked.status}
    log.info(
        "Request %s: %s of project %s on %s: %d after %.3f s, %d input tokens, %d output tokens",
        asked.request_id, asked.path, asked.project.name, asked.name, asked.status, seconds,
        usage.input_tokens, usage.output_tokens,
        extra=values
        | {"seconds": round(seconds, 3), "input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens},
    )  # fmt: skip
