"""What an engine's answer means for a request. Pure: an answer in, the values of the request's row out."""

from dataclasses import dataclass
from typing import Any

import orjson

from batches.intake import raw_json
from batches.intake.raw_json import NotAnObject
from batches.intake.records import one_line
from batches.models import RequestState
from models_registry.engine.client import Answer
from models_registry.engine.refusals import clean, parsed, refusal
from vbs.redaction import hide_locations

MOST_SHOWN = 64 * 1024  # bytes of what came instead of an answer
DEEP = 250  # levels of nesting that are looked at
MOST_TOKENS = 2**24  # of one request or answer: beyond the context of any model
UNSEEN_TOKENS = 2**17  # that may be in no bytes: media that are fetched, a server's own prompt, hidden reasoning


@dataclass(slots=True)
class Outcome:
    """The end of one request. `response` is the body of the answer as JSON on one line, or None when none came."""

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


def outcome(answer: Answer, model: str) -> Outcome:
    """`model` is the name that the user asked for; the answer bears it, whatever the engine calls the model."""
    request: int = answer.key
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
    """A request that got no answer."""
    return Outcome(request, RequestState.FAILED, None, None, None, code, message)


def _error(answer: Answer, body: Any) -> tuple[str, str]:
    assert answer.status is not None
    if answer.status < 300:
        return "invalid_response", _unreadable(answer, body)
    if answer.status < 400:
        return "redirected", (
            f"The server answered with a redirect ({answer.status}), which is not followed: "
            "add the model with the URL that it leads to."
        )
    code, message = refusal(answer.status, body)
    if answer.reason:
        message = f"{message} The engine's log says: {clean(hide_locations(answer.reason))}"
    return code, message


def _unreadable(answer: Answer, body: Any) -> str:
    """What came instead of a JSON object, and what to change."""
    kind = clean(answer.kind.partition(";")[0].strip().lower(), 100)
    start = answer.body[:100].lstrip()
    if not answer.body:
        return f"The engine's answer was empty (status {answer.status})."
    if isinstance(body, dict):
        return "The engine's answer nests too deeply to be kept."
    if body is not None:
        return f"The engine's answer was not a JSON object, but {type(body).__name__}."
    if kind == "text/event-stream" or start.startswith(b"data:"):
        return "The engine streamed its answer, which a batch cannot keep: leave out 'stream'."
    if kind == "text/html" or start.startswith(b"<"):
        return "The server answered with a web page: is the URL of the model right? It ends in /v1."
    if kind and kind != "application/json":
        return (
            f"The engine's answer was not a JSON object, but {len(answer.body):,} bytes of {kind}, which a batch "
            "cannot keep: ask for JSON, in embeddings with encoding_format 'float' or 'base64'."
        )
    try:
        orjson.loads(answer.body)
    except orjson.JSONDecodeError as error:
        return f"The engine's answer was not a JSON object: {clean(str(error), 200)}."
    return "The engine's answer was not a JSON object, but null."


def _shown(content: bytes, body: Any) -> str:
    """As JSON on one line: what came, or its beginning as a text."""
    if body is not None and len(content) <= MOST_SHOWN and _flat(content, body):
        return one_line(content).decode()
    more = "…" if len(content) > MOST_SHOWN else ""
    return one_line(orjson.dumps(content[:MOST_SHOWN].decode(errors="replace") + more)).decode()


def _count(made: Outcome, usage: Any, answer: Answer) -> None:
    """The tokens, within what is possible. A number that cannot be is not counted, whoever says it; of a server that
    others run, neither are more tokens than bytes of which they could be: it would spoil the speed of its model and
    the sums of the batch. The answer keeps what it says."""
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
    """The answer as it came, with this name of the model; None for what nests too deeply."""
    try:
        members = raw_json.members(body)
    except NotAnObject:
        return None
    members["model"] = raw_json.raw(model)
    return raw_json.text_of(members)


def _flat(content: bytes, body: Any) -> bool:
    """Can readers of JSON be expected to read it? They differ in how much nesting they take."""
    if content.count(b"[") + content.count(b"{") < DEEP:
        return True
    try:
        orjson.dumps(body)
    except orjson.JSONEncodeError:  # it writes less deeply than it reads
        return False
    return True
