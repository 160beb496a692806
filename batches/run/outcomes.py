"""Turns an engine's answer into an outcome: the values of the request's row. Without database and clock."""

from dataclasses import dataclass
from typing import Any

import orjson

from batches.intake.records import one_line
from batches.models import RequestState
from models_registry.engine.client import Answer
from models_registry.engine.error_bodies import clean, parsed, refusal
from vbs.openai import raw_json
from vbs.openai.raw_json import NotAnObject
from vbs.redaction import hide_locations

MOST_SHOWN = 64 * 1024  # bytes that are stored of what came instead of an answer
DEEP = 250  # brackets; an answer with more is checked for its nesting
MOST_TOKENS = 2**24  # of one request or answer; no model has a longer context
UNSEEN_TOKENS = 2**17  # that may come without bytes: media that are fetched, a server's own prompt, hidden reasoning


@dataclass(slots=True)
class Outcome:
    """What became of one request. response: the body of the answer as JSON on one line, or None when there was none."""

    id: int
    state: RequestState
    status_code: int | None
    response: str | None
    request_id: str | None
    error_code: str | None = None
    error_message: str | None = None
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


def outcome(request: int, answer: Answer, model: str) -> Outcome:
    """request: the id of its row. model: the name that the request asked for, which the answer gets whatever the engine
    calls the model."""
    if answer.status is None:
        return failure(
            request, answer.error_code or "engine_error", answer.error_message or "The engine did not answer."
        )
    body = parsed(answer.body)
    if answer.status < 300 and isinstance(body, dict):
        text = _bearing(answer.body, model) if "model" in body else answer.body
        if text is not None and _flat(answer.body, body):
            made = Outcome(request, RequestState.COMPLETED, answer.status, one_line(text).decode(), answer.request_id)
            _count(made, body.get("usage"), answer)
            return made
    code, message = _error(answer, body)
    shown = _shown(answer.body, body)
    return Outcome(request, RequestState.FAILED, answer.status, shown, answer.request_id, code, message)


def failure(request: int, code: str, message: str) -> Outcome:
    """The outcome of a request that got no answer."""
    return Outcome(request, RequestState.FAILED, None, None, None, code, message)


def _error(answer: Answer, body: Any) -> tuple[str, str]:
    assert answer.status is not None
    if answer.status < 300:
        return "invalid_response", _unreadable(answer, body)
    if answer.status < 400:
        return "redirected", (
            f"The server answered with a redirect ({answer.status}), and redirects are not followed: "
            "add the model with the URL that it leads to."
        )
    code, message = refusal(answer.status, body)
    if answer.reason:
        message = f"{message} The engine's log says: {clean(hide_locations(answer.reason))}"
    if answer.remedy:
        message = f"{message.removesuffix('.')}. {answer.remedy[0].upper()}{answer.remedy[1:]}."
    return code, message


def _unreadable(answer: Answer, body: Any) -> str:
    """A message that says what came instead of a JSON object, and what to change."""
    kind = clean(answer.kind.partition(";")[0].strip().lower(), 100)
    start = answer.body[:100].lstrip()
    if not answer.body:
        return f"The engine's answer was empty (status {answer.status})."
    if isinstance(body, dict):
        return "The engine's answer nests too deeply to be stored."
    if body is not None:
        return f"The engine's answer was not a JSON object, but {type(body).__name__}."
    if kind == "text/event-stream" or start.startswith(b"data:"):
        return "The engine streamed its answer, which a batch cannot store: leave out 'stream'."
    if kind == "text/html" or start.startswith(b"<"):
        return "The server answered with a web page: check the URL of the model, which ends in /v1."
    if kind and kind != "application/json":
        return (
            f"The engine's answer was not a JSON object, but {len(answer.body):,} bytes of {kind}, which a batch "
            "cannot store: ask for JSON, for embeddings with encoding_format 'float' or 'base64'."
        )
    try:
        orjson.loads(answer.body)
    except orjson.JSONDecodeError as error:
        return f"The engine's answer was not a JSON object: {clean(str(error), 200)}."
    return "The engine's answer was not a JSON object, but null."


def _shown(content: bytes, body: Any) -> str:
    """What came, as JSON on one line: itself if it is JSON, else its beginning as a text."""
    if body is not None and len(content) <= MOST_SHOWN and _flat(content, body):
        return one_line(content).decode()
    more = "…" if len(content) > MOST_SHOWN else ""
    return one_line(orjson.dumps(content[:MOST_SHOWN].decode(errors="replace") + more)).decode()


def _count(made: Outcome, usage: Any, answer: Answer) -> None:
    """Take over the tokens of the answer's usage, within what is possible.

    An impossible number is not counted. From a remote server, neither are more tokens than the bytes could contain:
    they would distort the speed of the model and the sums of the batch. The stored answer is not changed.
    """
    if not isinstance(usage, dict):
        return

    def number(of: Any, *names: str, most: int = MOST_TOKENS) -> int:
        found = next((of[name] for name in names if isinstance(of, dict) and type(of.get(name)) is int), 0)
        return found if 0 <= found <= most else 0

    read = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    written = usage.get("completion_tokens_details") or usage.get("output_tokens_details")
    most_read = most_written = MOST_TOKENS
    if answer.sent is not None:
        most_read = answer.sent + UNSEEN_TOKENS
        most_written = len(answer.body) + number(written, "reasoning_tokens", most=UNSEEN_TOKENS)
    made.input_tokens = number(usage, "prompt_tokens", "input_tokens", most=most_read)
    made.output_tokens = number(usage, "completion_tokens", "output_tokens", most=most_written)
    made.cached_tokens = number(read, "cached_tokens", most=made.input_tokens)
    made.reasoning_tokens = number(written, "reasoning_tokens", most=made.output_tokens)


def _bearing(body: bytes, model: str) -> bytes | None:
    """The answer with this name of the model, otherwise as it came; None when it nests too deeply."""
    try:
        members = raw_json.members(body)
    except NotAnObject:
        return None
    members["model"] = raw_json.raw(model)
    return raw_json.text_of(members)


def _flat(content: bytes, body: Any) -> bool:
    """Is it flat enough for common JSON parsers? They differ in how much nesting they take."""
    if content.count(b"[") + content.count(b"{") < DEEP:
        return True
    try:
        orjson.dumps(body)
    except orjson.JSONEncodeError:  # orjson writes fewer levels than it reads
        return False
    return True
