"""The body of a request as its engine gets it: what the client sent, number by number, but for a few members that are
ours."""

import hashlib
import hmac
from functools import lru_cache
from typing import Protocol

from django.conf import settings

from models_registry.engine.spec import EngineKind
from models_registry.serving.engines import Served
from vbs.accounts.models import Project
from vbs.openai import raw_json
from vbs.openai.errors import InvalidRequest, TooLarge
from vbs.openai.raw_json import Members, NotAnObject, Raw
from vbs.web.limits import MB

# What only we may set: who goes first, whose cached prefixes are used, and under which id the engine knows a request.
OURS = ("priority", "cache_salt", "request_id")
AHEAD = -1  # lines of batches have 0, and a lower number is sooner
LONGEST_NAME = 200
# Endpoints whose streams tell the usage only when that is asked for.
SAY_USAGE = ("/chat/completions", "/completions")


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read(stream: Readable) -> Members:
    """The body of a request, its members as they were sent. Raises ApiError."""
    most = settings.VBS_MAX_LINE_MB
    text = stream.read(most * MB + 1)
    if len(text) > most * MB:
        raise TooLarge(
            f"The request body has more than {most} MB, the limit of one request (VBS_MAX_LINE_MB). Shorten it."
        )
    try:
        return raw_json.members(text)
    except NotAnObject as error:
        raise InvalidRequest(f"The body must be a JSON object: {error}", code="invalid_body") from error


def model_name(body: Members) -> str:
    """The model that the body names. Raises InvalidRequest."""
    if "model" not in body:
        raise InvalidRequest("Missing required parameter: 'model'.", param="model", code="missing_required_parameter")
    name = raw_json.value(body["model"])
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
        raise InvalidRequest(
            f"Invalid 'model': it must be a text of 1 to {LONGEST_NAME} characters.", param="model", code="invalid_type"
        )
    return name


def streams(body: Members) -> bool:
    return raw_json.value(body.get("stream", raw_json.raw(False))) is True


def check(path: str, body: Members) -> None:
    """Raises InvalidRequest for what could not be fetched from here."""
    if path == "/responses" and raw_json.value(body.get("background", raw_json.raw(None))) is True:
        raise InvalidRequest(
            "Responses in the background are not supported: send the request without 'background', or run it as a "
            "line of a batch.",
            param="background",
            code="unsupported_parameter",
        )


def for_engine(body: Members, served: Served, project: Project) -> bytes:
    made = dict(body)
    own(made, served.kind, project.pk)
    made["model"] = raw_json.raw(served.served_name)
    if served.prioritized:
        made["priority"] = raw_json.raw(AHEAD)
    return raw_json.text_of(made)


def own(body: Members, kind: EngineKind, project: int) -> None:
    """Drop what only we may set, and say whose cached prefixes are used. Of a line of a batch, too."""
    for name in OURS:
        body.pop(name, None)
    if kind is EngineKind.VLLM:
        body["cache_salt"] = _salt(project)


@lru_cache(maxsize=1024)
def _salt(project: int) -> Raw:
    """Requests of one project share cached prefixes of prompts; with those of others they would tell of each other by
    how long they take."""
    words = f"vbs: cached prefixes of project {project}"
    return raw_json.raw(hmac.new(settings.SECRET_KEY.encode(), words.encode(), hashlib.sha256).hexdigest()[:32])


def ask_usage(path: str, body: Members) -> bool:
    """Have the stream end with its usage. False when it does so anyway, or cannot."""
    if path not in SAY_USAGE:
        return False
    options: Members = {}
    if (given := body.get("stream_options")) is not None and raw_json.value(given) is not None:
        try:
            options = raw_json.members(given)
        except NotAnObject:  # the engine says what is wrong with it
            return False
    if "include_usage" in options and raw_json.value(options["include_usage"]) is True:
        return False
    body["stream_options"] = raw_json.Raw(raw_json.text_of(options | {"include_usage": raw_json.raw(True)}))
    return True
