"""JSON objects whose values are passed on unchanged: each number with its digits, each text with its escapes.

When an object has a name twice, the last value counts, as with common JSON parsers.
"""

from typing import Any

import msgspec
import orjson
from msgspec import Raw

Members = dict[str, Raw]


class NotAnObject(ValueError):
    """The text is not a JSON object, or it nests too deeply."""


class _Line(msgspec.Struct):
    custom_id: str
    body: dict[str, Raw]


_lines = msgspec.json.Decoder(_Line)
_objects = msgspec.json.Decoder(dict[str, Raw])
_encoder = msgspec.json.Encoder()


def request_of(line: bytes) -> tuple[str, Members]:
    """The custom_id and the members of the body of a line. Raises NotAnObject."""
    try:
        found = _lines.decode(line)
        return found.custom_id, found.body
    except (msgspec.MsgspecError, RecursionError) as error:
        raise NotAnObject(str(error)) from None


def members(text: bytes) -> Members:
    """The members of a JSON object. Raises NotAnObject."""
    try:
        return _objects.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise NotAnObject(str(error)) from None


def raw(value: Any) -> Raw:
    return Raw(orjson.dumps(value))


def value(given: Raw) -> Any:
    """The value as Python has it; None for one that only some parsers take."""
    try:
        return orjson.loads(bytes(given))
    except orjson.JSONDecodeError:
        return None


def text_of(given: Members) -> bytes:
    return _encoder.encode(given)


def indented(text: bytes) -> str:
    """The same JSON, indented for people. Raises NotAnObject."""
    try:
        return msgspec.json.format(text, indent=2).decode()
    except (msgspec.MsgspecError, RecursionError) as error:
        raise NotAnObject(str(error)) from None


def kind_of(value: Any) -> str:
    """What a value of JSON is, in words for a message."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
    return "an object"
