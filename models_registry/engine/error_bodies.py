"""Reads code and message out of an engine's error body, in any of the usual shapes.

The body may come from a server that we know nothing about, so its size, depth and characters are checked.
"""

import re
from typing import Any

import orjson

MOST_MESSAGE = 4000  # characters
MOST_CODE = 100
SHORTEST_KEY = 6  # characters that are hidden; fewer are in every text
PATIENCE = {408, 425, 429, 502, 503, 504}  # statuses that the request did not cause


def parsed(body: bytes) -> Any:
    """The JSON value of a body; None when it is not JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def without(body: bytes, key: str) -> bytes:
    """The body without the key that its server was sent, which some servers repeat when they refuse it."""
    return body.replace(key.encode(), b"***") if len(key) >= SHORTEST_KEY else body


# The codes of errors whose server gives none in the usual form, but `BadRequestError`, `Bad Request` or nothing.
CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    408: "request_timeout",
    413: "request_too_large",
    422: "invalid_request",
    429: "rate_limit_exceeded",
    500: "server_error",
    502: "server_error",
    503: "server_error",
    504: "server_error",
}
CODE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def refusal(status: int, body: Any) -> tuple[str, str]:
    """Code and message of a parsed error. The code is the server's, such as `context_length_exceeded`, or else that of
    the status. (Types such as `invalid_request_error` say less than the status.)"""
    error = body.get("error", body) if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {"message": error}
    said = (error.get(name) for name in ("code", "type"))
    code = next((one for one in said if isinstance(one, str) and CODE.fullmatch(one) and not one.endswith("error")), "")
    message = as_text(error.get("message"))
    code = code or CODES.get(status, f"http_{status}")
    return clean(code, MOST_CODE), clean(message or f"The engine answered with status {status}.")


def message_of(status: int, body: bytes) -> str:
    """The message of an error body, or the beginning of the body when it is not JSON."""
    found = parsed(body)
    return clean(body.decode(errors="replace"), 500) if found is None else refusal(status, found)[1]


def as_text(value: Any) -> str:
    """A text as it is, any other value as JSON; empty for None, and for a value that nests too deeply to be written."""
    if isinstance(value, str):
        return value
    try:
        return "" if value is None else orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return ""


def clean(text: str, most: int = MOST_MESSAGE) -> str:
    """The text as a database and a page can hold it: without NUL and lone surrogates, and of a bounded length."""
    short = text if len(text) <= most else text[: most - 1] + "…"
    return short.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def key_refused(status: int, sent: bool) -> str:
    """What the operators of this server do about a remote server that answers 401 or 403. It has no address.

    sent: whether it got a key.
    """
    if sent:
        return f"the model's server answers {status}: check the key in VBS_REMOTE_KEY, or the model's own"
    return (
        f"the model's server answers {status} and got no key: set VBS_REMOTE_KEY, and name its address in "
        "VBS_REMOTE_ORIGINS, or give the model a key of its own"
    )
