"""Records of JSON, one a line: for every reader, also for those that end a line where Unicode lets one end.

Whatever this server writes as JSONL goes through here. What it reads ends its lines at line feeds only.
"""

from typing import Any

import orjson

# JSON lets these stand in a string as they are, and `str.splitlines` and its like end a line at each. The separators
# below U+0020 have to be escaped in JSON anyway. In UTF-8 no part of one character looks like another.
_SEPARATORS = tuple((one.encode(), f"\\u{ord(one):04x}".encode()) for one in "\u0085\u2028\u2029")
_BETWEEN_TOKENS = bytes.maketrans(b"\r\n", b"  ")  # a line end in JSON is white space between tokens, never in a string


def one_line(text: bytes) -> bytes:
    """The same JSON, on one line for every reader."""
    if not text.isascii():
        for raw, escaped in _SEPARATORS:
            text = text.replace(raw, escaped)
    return text.translate(_BETWEEN_TOKENS) if b"\n" in text or b"\r" in text else text


def record(value: Any) -> bytes:
    """A value as a line of JSONL. Raises orjson.JSONEncodeError."""
    return one_line(orjson.dumps(value)) + b"\n"
