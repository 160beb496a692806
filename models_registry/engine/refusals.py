"""What an engine says when it does not answer: its errors in whichever of the usual shapes, within bounds.

It may be a server that we know nothing of, so nothing is taken for granted: neither sizes, nor depth, nor characters.
"""

import re
from typing import Any

import orjson

MOST_MESSAGE = 4000  # characters
MOST_CODE = 100
PATIENCE = {408, 425, 429, 502, 503, 504}  # statuses that say nothing of the request


def parsed(body: bytes) -> Any:
    """The JSON of a body; None where there is none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


# The code of an error whose server has none in the usual form: `BadRequestError`, `Bad Request`, or nothing.
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
    """Code and message of a parsed error. The code is the server's where it is one, such as `context_length_exceeded`,
    else that of the status. (Types such as `invalid_request_error` say less than the status.)"""
    error = body.get("error", body) if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {"message": error}
    said = (error.get(name) for name in ("code", "type"))
    code = next((one for one in said if isinstance(one, str) and CODE.fullmatch(one) and not one.endswith("error")), "")
    message = words(error.get("message"))
    code = code or CODES.get(status, f"http_{status}")
    return clean(code, MOST_CODE), clean(message or f"The engine answered with status {status}.")


def said(status: int, body: bytes) -> str:
    """The message of an error, or its first words where it is none that we know."""
    found = parsed(body)
    return clean(body.decode(errors="replace"), 500) if found is None else refusal(status, found)[1]


def words(value: Any) -> str:
    """A text as it is, anything else as JSON; empty for nothing, and for what nests too deeply to be written."""
    if isinstance(value, str):
        return value
    try:
        return "" if value is None else orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return ""


def clean(text: str, most: int = MOST_MESSAGE) -> str:
    """What a database and a page can hold: no NUL, no halves of characters, an end."""
    short = text if len(text) <= most else text[: most - 1] + "…"
    return short.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
