"""A request's call and answer as pieces that people can read. Pure: JSON in, texts out.

The JSON comes from clients and engines, so no function takes for granted that a field has the right type.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import orjson

from vbs.openai.raw_json import Members
from vbs.pages.plain import brief
from vbs.pages.words import size

MOST_PIECES = 200
FIRST_VALUES = 8  # of an embedding
SCORED = ("query", "queries", "text_1", "data_1", "documents", "text_2", "items", "data_2")  # of a score or a ranking
PROMPTS = ("messages", "prompt", "input", "instructions", *SCORED)


@dataclass(frozen=True)
class ExchangePiece:
    """Something that somebody said. who: a role, or what it is. notes: in a few words, beside it. kind: `call` (of a
    tool), `media`, `reasoning`, or empty for a text."""

    who: str
    text: str
    notes: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True)
class Tool:
    name: str
    description: str
    schema: str


@dataclass(frozen=True)
class Side:
    """The call or the answer. more: the number of pieces that are left out. facts: names and values of all other
    fields."""

    pieces: tuple[ExchangePiece, ...] = ()
    more: int = 0
    tools: tuple[Tool, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()


def asked(body: Any, sent: Members | None = None) -> Side:
    """The pieces of a call. sent: its members as they were sent, so that numbers are shown digit by digit."""
    if not isinstance(body, dict):
        return Side((ExchangePiece("body", pretty(body)),))
    pieces = list(call_pieces(body))
    known = sent or {}
    facts = tuple(
        (name, bytes(known[name]).decode() if isinstance(value, int | float) and name in known else as_text(value))
        for name, value in body.items()
        if name not in (*PROMPTS, "tools")
    )
    tools = tuple(map(_tool, islice(_list(body.get("tools")), MOST_PIECES)))
    return Side(tuple(pieces[:MOST_PIECES]), max(0, len(pieces) - MOST_PIECES), tools, facts)


def answered(body: Any) -> Side:
    """The pieces of an answer, of any endpoint."""
    if not isinstance(body, dict):
        return Side((ExchangePiece("answer", as_text(body)),))
    pieces = list(answer_pieces(body))
    facts = [(name, as_text(body[name])) for name in ("id", "model", "system_fingerprint", "status") if body.get(name)]
    facts += [(f"usage: {name}", text) for name, text in _flat(body.get("usage"))]
    return Side(tuple(pieces[:MOST_PIECES]), max(0, len(pieces) - MOST_PIECES), facts=tuple(facts))


# What was asked


def call_pieces(body: dict[str, Any]) -> Iterator[ExchangePiece]:
    if body.get("instructions") is not None:
        yield ExchangePiece("instructions", as_text(body["instructions"]))
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else [] if messages is None else [messages]:
        yield from _message(message)
    for name in ("prompt", "input", *SCORED):
        given = body.get(name)
        if given is None:
            continue
        if not isinstance(given, list) or all(isinstance(one, int) for one in given):
            yield ExchangePiece(name, as_text(given), _tokens(given))
            continue
        for place, one in enumerate(given, 1):
            if isinstance(one, dict):
                yield from _item(one)
            else:
                yield ExchangePiece(f"{name} {place}", as_text(one), _tokens(one))


def _tokens(given: Any) -> tuple[str, ...]:
    return (f"{len(given):,} tokens",) if isinstance(given, list) else ()


def _message(message: Any) -> Iterator[ExchangePiece]:
    """A chat message: its role and its text. A part that is not text is a piece of its own."""
    if not isinstance(message, dict):
        yield ExchangePiece("message", pretty(message))
        return
    who = as_text(message.get("role") or "message")[:40]
    notes = tuple(f"{name} {as_text(message[key])}" for key, name in _NAMED if message.get(key))
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.get(name), str) and message[name]:
            yield ExchangePiece(f"{who}, reasoning", message[name], kind="reasoning")
            break
    content = message.get("content")
    if isinstance(content, list):
        for part in content:
            yield _part(part, who, notes)
    elif content is not None:
        yield ExchangePiece(who, as_text(content), notes)
    if message.get("refusal"):
        yield ExchangePiece(f"{who}, refusal", as_text(message["refusal"]))
    for call in _list(message.get("tool_calls")):
        yield _call(call)
    if isinstance(message.get("function_call"), dict):
        yield _call(message["function_call"])


_NAMED = (("name", "named"), ("tool_call_id", "answers the call"))


def _part(part: Any, who: str, notes: tuple[str, ...]) -> ExchangePiece:
    if isinstance(part, str):
        return ExchangePiece(who, part, notes)
    if not isinstance(part, dict):
        return ExchangePiece(who, pretty(part), notes)
    kind = as_text(part.get("type"))
    for name in ("text", "refusal"):
        if isinstance(part.get(name), str):
            return ExchangePiece(who, part[name], notes if name == "text" else (*notes, name))
    for name in ("image_url", "video_url", "audio_url", "file_url"):
        given = part.get(name)
        url = given.get("url") if isinstance(given, dict) else given
        if isinstance(url, str):
            return ExchangePiece(who, *_media(url, name.removesuffix("_url"), notes), kind="media")
    for name in ("input_audio", "file"):
        given = part.get(name)
        data = given.get("data") or given.get("file_data") if isinstance(given, dict) else None
        if isinstance(given, dict) and isinstance(data, str):
            what = as_text(given.get("format") or given.get("filename") or name)
            note = f"{name.removeprefix('input_')}: {what}, {size(len(data) * 3 // 4)}"
            return ExchangePiece(who, "", (*notes, note), "media")
    return ExchangePiece(who, pretty(part), (*notes, kind) if kind else notes)


def _media(url: str, kind: str, notes: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """A link to show; for embedded bytes, their type and size. The page never loads it."""
    if not url.startswith("data:"):
        return url, (*notes, f"{kind}, by its address")
    head, _, data = url[5:].partition(",")
    bytes_ = len(data) * 3 // 4 - data[-2:].count("=") if head.endswith(";base64") else len(data)
    return "", (*notes, f"{kind}: {head.partition(';')[0] or 'no type given'}, {size(bytes_)}")


def _tool(tool: Any) -> Tool:
    if not isinstance(tool, dict):
        return Tool("", pretty(tool), "")
    function = tool["function"] if isinstance(tool.get("function"), dict) else tool
    name = as_text(function.get("name") or tool.get("type") or "")
    schema = function.get("parameters")
    return Tool(name, as_text(function.get("description") or ""), pretty(schema) if schema else "")


def _call(call: Any) -> ExchangePiece:
    """A tool call with its arguments."""
    if not isinstance(call, dict):
        return ExchangePiece("tool call", pretty(call))
    function = call["function"] if isinstance(call.get("function"), dict) else call
    notes = tuple(as_text(call[key]) for key in ("call_id", "id") if call.get(key))[:1]
    name, arguments = as_text(function.get("name") or ""), as_text(function.get("arguments") or "")
    return ExchangePiece(f"tool call {name[:100]}", arguments, notes, "call")


# What was answered


def answer_pieces(body: dict[str, Any]) -> Iterator[ExchangePiece]:
    if isinstance(error := body.get("error"), dict | str):
        yield ExchangePiece("error", as_text(error.get("message") or error) if isinstance(error, dict) else error)
    choices = _list(body.get("choices"))
    for place, choice in enumerate(choices):
        yield from choice_pieces(choice, place if len(choices) > 1 else None)
    for place, one in enumerate(_list(body.get("data"))):
        yield _vector(one, place)
    for place, one in enumerate(_list(body.get("results")), 1):
        yield _ranked(one, place)
    for item in _list(body.get("output")):
        yield from _item(item)


def choice_pieces(choice: Any, place: int | None) -> Iterator[ExchangePiece]:
    if not isinstance(choice, dict):
        yield ExchangePiece("choice", pretty(choice))
        return
    name = "" if place is None else f"choice {place + 1}"
    pieces = list(_message(choice["message"])) if isinstance(choice.get("message"), dict) else []
    if isinstance(choice.get("text"), str):
        pieces.append(ExchangePiece("completion", choice["text"]))
    ended = (f"finish reason {as_text(choice['finish_reason'])}",) if choice.get("finish_reason") else ()
    last = len(pieces) - 1
    for at, piece in enumerate(pieces or [ExchangePiece("answer", "")]):
        who = f"{name}: {piece.who}" if name else piece.who
        yield replace(piece, who=who, notes=piece.notes + (ended if at >= last else ()))


def _vector(one: Any, place: int) -> ExchangePiece:
    vector = one.get("embedding") if isinstance(one, dict) else None
    if isinstance(one, dict) and isinstance(score := one.get("score"), int | float):
        return ExchangePiece(f"score {place + 1}", f"{score:.6g}")
    if isinstance(vector, list):
        first = ", ".join(f"{value:.6g}" if isinstance(value, int | float) else "?" for value in vector[:FIRST_VALUES])
        more = ", …" if len(vector) > FIRST_VALUES else ""
        return ExchangePiece(f"embedding {place + 1}", first + more, (f"{len(vector):,} dimensions",))
    if isinstance(vector, str):  # base64 of 32-bit floats
        return ExchangePiece(
            f"embedding {place + 1}", brief(vector, 80), (f"{dimensions(vector):,} dimensions, base64",)
        )
    return ExchangePiece(f"item {place + 1}", pretty(one))


def _ranked(one: Any, place: int) -> ExchangePiece:
    """A document in its place of a ranking."""
    if not isinstance(one, dict) or not isinstance(score := one.get("relevance_score"), int | float):
        return ExchangePiece(f"place {place}", pretty(one))
    document = one.get("document")
    text = document.get("text") if isinstance(document, dict) else document
    index = one.get("index")
    which = (f"document {index + 1}",) if isinstance(index, int) else ()
    return ExchangePiece(f"place {place}", as_text(text), (f"score {score:.6g}", *which))


def dimensions(encoded: str) -> int:
    return (len(encoded) * 3 // 4 - encoded[-2:].count("=")) // 4


def _item(item: Any) -> Iterator[ExchangePiece]:
    """An item of the Responses API, from a call or an answer."""
    if not isinstance(item, dict):
        yield ExchangePiece("item", as_text(item))
        return
    kind = item.get("type")
    if kind == "function_call":
        yield _call(item)
    elif kind == "function_call_output":
        yield ExchangePiece("tool", as_text(item.get("output")), (f"answers the call {as_text(item.get('call_id'))}",))
    elif kind == "reasoning":
        said = [*_list(item.get("summary")), *_list(item.get("content"))]
        for part in said:
            yield replace(_part(part, "reasoning", ()), kind="reasoning")
    elif "role" in item or kind == "message":
        yield from _message(item)
    else:
        yield ExchangePiece(as_text(kind or "item")[:40], pretty(item))


# Any JSON as text


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else _dump(value, 0)


def pretty(value: Any) -> str:
    return _dump(value, orjson.OPT_INDENT_2)


def _dump(value: Any, option: int) -> str:
    try:
        return orjson.dumps(value, option=option).decode()
    except orjson.JSONEncodeError:  # orjson reads deeper nesting than it writes
        return f"a deeply nested {type(value).__name__}"


def _flat(value: Any, name: str = "", deep: int = 3) -> Iterator[tuple[str, str]]:
    """{"a": {"b": 1}} as ("a b", "1")."""
    if isinstance(value, dict) and deep:
        for key, inner in islice(value.items(), 50):
            yield from _flat(inner, f"{name} {key}".strip().replace("_", " "), deep - 1)
    elif value is not None and name:
        yield name, as_text(value)
