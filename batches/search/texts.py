"""The texts of a request that are searched: of its prompt and of its answer. Pure: JSON in, texts out.

What the user says comes first, for a long system prompt is mostly the same in each request.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import orjson

from batches.exchange import MOST_PIECES, ExchangePiece, answer_pieces, as_text, call_pieces
from batches.search.words import MOST_CHARACTERS

WHOLE = 2**20  # bytes of a line, or of an answer, that are taken apart; of a longer one only the beginning is searched:
BEGINNING = 65_536
_SAID = re.compile(r'"(?:content|text|prompt|input)":\s*"((?:[^"\\]|\\.)*)')


def prompt(line: bytes, is_whole: bool = True) -> list[str]:
    """is_whole: whether this is the whole line, or only its beginning."""
    if not is_whole:
        return _bounded(_cut(line.decode(errors="replace")))
    try:
        body = orjson.loads(line)["body"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return _bounded([line.decode(errors="replace")])
    if not isinstance(body, dict):
        return _bounded([as_text(body)])
    pieces = sorted(islice(call_pieces(body), MOST_PIECES), key=lambda piece: piece.who != "user")
    return _bounded(map(_text, pieces))


def answer(response: str, is_whole: bool = True) -> list[str]:
    """Without reasoning, and without the numbers of vectors."""
    if not is_whole:
        return [] if '"embedding":' in response else _bounded(_cut(response))
    try:
        body = orjson.loads(response)
    except orjson.JSONDecodeError:
        return _bounded([response])
    if not isinstance(body, dict):
        return _bounded([as_text(body)])
    pieces = () if _has_vectors(body) else islice(answer_pieces(body), MOST_PIECES)
    return _bounded(_text(piece) for piece in pieces if piece.kind != "reasoning")


def _text(piece: ExchangePiece) -> str:
    """Of the call of a tool also its name."""
    return f"{piece.who.removeprefix('tool call ')} {piece.text}" if piece.kind == "call" else piece.text


def _has_vectors(body: dict[str, Any]) -> bool:
    data = body.get("data")
    first = data[0] if isinstance(data, list) and data else None
    return isinstance(first, dict) and ("embedding" in first or "score" in first)


def _cut(text: str) -> Iterator[str]:
    """The texts in the beginning of a JSON object."""
    for found in _SAID.finditer(text):
        try:
            yield str(orjson.loads(f'"{found[1]}"'))
        except orjson.JSONDecodeError:  # it was cut within an escape
            yield found[1]


def _bounded(given: Iterable[str]) -> list[str]:
    """The first of the texts, with so many characters together as are searched."""
    left, kept = MOST_CHARACTERS, []
    for text in given:
        if left <= 0:
            break
        if text:
            kept.append(text[:left])
            left -= len(text)
    return kept
