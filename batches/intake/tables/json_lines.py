"""Reads tables whose rows are JSON objects, one a line."""

from collections.abc import Iterator
from typing import IO, Any

import orjson

from batches.intake.tables.cells import Piece
from batches.intake.tables.encodings import Lines


def pieces(file: IO[bytes], encoding: str, row_bytes: int) -> Iterator[Piece]:
    """Every line. Raises TableError."""
    lines = Lines(file, encoding, row_bytes)
    for text in lines:
        found, why = _row(text)
        yield Piece(lines.number, lines.taken(), found, why)


def _row(text: str) -> tuple[dict[str, Any] | None, str]:
    if not text.strip():
        return {}, ""
    try:
        found = orjson.loads(text)
        if not isinstance(found, dict):
            return None, "The row is not a JSON object"
        orjson.dumps(found)
    except orjson.JSONDecodeError as error:
        return None, f"The row is not JSON: {error}"
    except orjson.JSONEncodeError:  # orjson reads deeper nesting than it writes
        return None, "The row is nested too deeply"
    return found, ""


def text_of(value: Any) -> str:
    """A text as it is, an empty text for null, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def is_one_row(text: str) -> bool:
    return "\n" not in text and _row(text)[0] is not None
