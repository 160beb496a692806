"""JSON objects whose values are passed on as they came: each number digit by digit, each text as it was escaped.

Of a name that stands twice in an object the last value counts, as with every reader of JSON.
"""

from typing import Any

import msgspec
import orjson
from msgspec import Raw

Members = dict[str, Raw]


class NotAnObject(ValueError):
    """It is no object in JSON, or nested too deeply to be taken apart."""


class _Line(msgspec.Struct):
    custom_id: str
    body: dict[str, Raw]


_lines = msgspec.json.Decoder(_Line)
_objects = msgspec.json.Decoder(dict[str, Raw])
_encoder = msgspec.json.Encoder()


def request_of(line: bytes) -> tuple[str, Members]:
    """A request's custom_id, and the members of its body. Raises NotAnObject."""
    try:
        found = _lines.decode(line)
        return found.custom_id, found.body
    except (msgspec.MsgspecError, RecursionError) as error:
        raise NotAnObject(str(error)) from None


def members(text: bytes) -> Members:
    """Raises NotAnObject."""
    try:
        return _objects.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise NotAnObject(str(error)) from None


def raw(value: Any) -> Raw:
    return Raw(orjson.dumps(value))


def text_of(given: Members) -> bytes:
    return _encoder.encode(given)


def indented(text: bytes) -> str:
    """The same, to read. Raises NotAnObject."""
    try:
        return msgspec.json.format(text, indent=2).decode()
    except (msgspec.MsgspecError, RecursionError) as error:
        raise NotAnObject(str(error)) from None
