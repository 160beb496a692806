"""What a prompt or an answer says, as one text. Pure: JSON in, text out.

What stands in several places of an answer, and vectors and scores, is JSON: a program reads it without guessing.
"""

from collections.abc import Iterable
from typing import Any

import orjson

from batches.exchange import ExchangePiece, answer_pieces, as_text, call_pieces, choice_pieces


def prompt(body: Any) -> str:
    """The text of a call's body; where there are several, each after who says it."""
    if not isinstance(body, dict):
        return as_text(body)
    pieces = list(call_pieces(body))
    if len(pieces) == 1:
        return _words(pieces[0])
    return "\n\n".join(f"{piece.who}: {_words(piece)}" for piece in pieces)


def answer(response: str) -> tuple[str, str]:
    """The text of an answer, without its reasoning, and why it ended."""
    try:
        body = orjson.loads(response)
    except orjson.JSONDecodeError:
        return response, ""
    if not isinstance(body, dict):
        return as_text(body), ""
    return _said(body), _ended(body)


def _said(body: dict[str, Any]) -> str:
    choices, data = body.get("choices"), body.get("data")
    if isinstance(choices, list) and choices:
        return _one_or_all([_joined(choice_pieces(choice, None)) for choice in choices])
    if isinstance(data, list) and data:
        return _one_or_all([_value(one) for one in data])
    if isinstance(ranked := body.get("results"), list):
        return as_text(ranked)
    return _joined(answer_pieces(body))


def _one_or_all(values: list[Any]) -> str:
    return as_text(values[0] if len(values) == 1 else values)


def _value(one: Any) -> Any:
    """A vector, or a score."""
    if not isinstance(one, dict):
        return one
    return one.get("embedding", one.get("score", one))


def _joined(pieces: Iterable[ExchangePiece]) -> str:
    said = (_words(piece) for piece in pieces if piece.kind != "reasoning")
    return "\n\n".join(words for words in said if words)


def _words(piece: ExchangePiece) -> str:
    if piece.kind == "call":
        return f"{piece.who.removeprefix('tool call ')}({piece.text})"
    if piece.kind == "media" and not piece.text:
        return f"[{', '.join(piece.notes)}]"
    return piece.text


def _ended(body: dict[str, Any]) -> str:
    """The reasons of its choices; of an answer of the Responses API its status, or what it lacks."""
    choices = body.get("choices")
    if isinstance(choices, list):
        reasons = [as_text(one.get("finish_reason")) for one in choices if isinstance(one, dict)]
        return ", ".join(dict.fromkeys(filter(None, reasons)))
    incomplete = body.get("incomplete_details")
    reason = incomplete.get("reason") if isinstance(incomplete, dict) else None
    return as_text(reason or body.get("status"))
