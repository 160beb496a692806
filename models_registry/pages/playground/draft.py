"""A request as the fields of the playground's form. Pure.

The JSON may come from anybody, so what does not fit a field stays as it is, among the other fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from vbs.openai import raw_json
from vbs.openai.raw_json import Members, NotAnObject

CHAT = "/v1/chat/completions"
# Where the message goes, at the other endpoints.
TEXTS = {
    "/v1/completions": "prompt",
    "/v1/embeddings": "input",
    "/v1/responses": "input",
    "/v1/rerank": "query",
    "/v1/score": "queries",
}
ROLES = ("user", "assistant", "system")
AS_JSON = "json"  # in place of a role: the text is the whole message
NUMBERS = ("max_tokens", "temperature", "top_p", "seed")
OURS = ("model", "stream", "stream_options")  # what the playground says itself
MOST_MESSAGES = 50  # that get fields of their own


@dataclass(frozen=True)
class Message:
    role: str
    text: str


@dataclass(frozen=True)
class Draft:
    """endpoint: a route. before: the messages between the system prompt and `message`. stop: one on each line. schema:
    of a structured answer. more: a JSON object of what has no field."""

    endpoint: str = CHAT
    model: str = ""
    system: str = ""
    before: tuple[Message, ...] = ()
    message: str = ""
    numbers: Mapping[str, str] = field(default_factory=dict)
    stop: str = ""
    schema: str = ""
    more: str = ""


def draft(endpoint: str, members: Members) -> Draft:
    left = {name: value for name, value in members.items() if name not in OURS}
    model = raw_json.value(members.get("model", raw_json.raw("")))
    found: dict[str, Any] = {"model": model if isinstance(model, str) else ""}
    if endpoint == CHAT:
        found |= _conversation(left) | _structure(left)
    elif isinstance(text := raw_json.value(left.get(TEXTS[endpoint], raw_json.raw(None))), str):
        del left[TEXTS[endpoint]]
        found["message"] = text
    if endpoint in (CHAT, "/v1/completions"):
        found |= {"numbers": _numbers(left), "stop": _stop(left)}
    more = raw_json.indented(raw_json.text_of(left)) if left else ""
    return Draft(endpoint=endpoint, more=more, **found)


# Each takes what it understands out of what is left.


def _conversation(left: Members) -> dict[str, Any]:
    messages = raw_json.value(left.get("messages", raw_json.raw(None)))
    if not isinstance(messages, list) or not 0 < len(messages) <= MOST_MESSAGES:
        return {}
    if not all(isinstance(one, dict) for one in messages):
        return {}
    del left["messages"]
    rows = [_message(one) for one in messages]
    found: dict[str, Any] = {}
    if rows[0].role == "system":
        found["system"] = rows.pop(0).text
    if rows and rows[-1].role == "user":
        found["message"] = rows.pop().text
    return found | {"before": tuple(rows)}


def _message(given: dict[str, Any]) -> Message:
    role, text = given.get("role"), given.get("content")
    if set(given) == {"role", "content"} and role in ROLES and isinstance(text, str):
        return Message(role, text)
    return Message(AS_JSON, orjson.dumps(given, option=orjson.OPT_INDENT_2).decode())


def _numbers(left: Members) -> dict[str, str]:
    """Digit by digit."""
    names = [name for name in NUMBERS if name in left and type(raw_json.value(left[name])) in (int, float)]
    return {name: bytes(left.pop(name)).decode() for name in names}


def _stop(left: Members) -> str:
    stop = raw_json.value(left.get("stop", raw_json.raw(None)))
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or not all(isinstance(one, str) and one and "\n" not in one for one in texts):
        return ""
    del left["stop"]
    return "\n".join(texts)


def _structure(left: Members) -> dict[str, str]:
    """The schema of a `response_format` that has one."""
    try:
        wanted = raw_json.members(left["response_format"])
        if set(wanted) != {"type", "json_schema"} or raw_json.value(wanted["type"]) != "json_schema":
            return {}
        described = raw_json.members(wanted["json_schema"])
        if "schema" not in described or set(described) - {"name", "schema", "strict"}:
            return {}
        schema = raw_json.indented(described["schema"])
    except (KeyError, NotAnObject):
        return {}
    del left["response_format"]
    return {"schema": schema}
