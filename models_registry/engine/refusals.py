"""What an engine says when it does not answer: its errors in whichever of the usual shapes, within bounds.

It may be a server that we know nothing of, so nothing is taken for granted: neither sizes, nor depth, nor characters.
"""

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


def refusal(status: int, body: Any) -> tuple[str, str]:
    """Code and message of a parsed error."""
    error = body.get("error", body) if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {"message": error}
    code = next((error[name] for name in ("code", "type") if isinstance(error.get(name), str)), None)
    message = words(error.get("message"))
    return clean(code or f"http_{status}", MOST_CODE), clean(message or f"The engine answered with status {status}.")


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
