"""Writes records of JSON, each on one line for every reader, also for readers that end lines at Unicode separators.

All JSONL that this server writes goes through here. In JSONL that it reads, only line feeds end a line.
"""

from typing import Any

import orjson

# JSON allows these characters in a string, but `str.splitlines` and others end a line at each of them. The separators
# below U+0020 have to be escaped in JSON anyway. In UTF-8 no part of one character looks like another character.
_SEPARATORS = tuple((one.encode(), f"\\u{ord(one):04x}".encode()) for one in "\u0085\u2028\u2029")
_BETWEEN_TOKENS = bytes.maketrans(b"\r\n", b"  ")  # a line end in JSON can only be white space between tokens


def one_line(text: bytes) -> bytes:
    """The same JSON, on one line for every reader."""
    if not text.isascii():
        for raw, escaped in _SEPARATORS:
            text = text.replace(raw, escaped)
    return text.translate(_BETWEEN_TOKENS) if b"\n" in text or b"\r" in text else text


def record(value: Any) -> bytes:
    """A value as a line of JSONL. Raises orjson.JSONEncodeError."""
    return one_line(orjson.dumps(value)) + b"\n"
