"""What an engine's answer means for a request. Pure: an answer in, the values of the request's row out."""

from dataclasses import dataclass
from typing import Any

import orjson

from batches import raw_json
from batches.models import RequestState
from batches.raw_json import NotAnObject
from batches.records import one_line
from models_registry.engine.client import Answer


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
    try:
        body: Any = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        body = None
    if answer.status < 300 and isinstance(body, dict):
        try:
            text = _bearing(answer.body, model) if "model" in body else one_line(answer.body).decode()
        except NotAnObject:
            return failure(request, "invalid_response", "The engine's answer is nested too deeply.")
        made = Outcome(request, RequestState.COMPLETED, answer.status, text, _clean(answer.request_id))
        _count(made, body.get("usage"))
        return made
    code, message = _error(answer, body)
    plain = orjson.dumps(answer.body.decode(errors="replace")) if body is None else one_line(answer.body)
    shown = plain.decode()
    return Outcome(request, RequestState.FAILED, answer.status, shown, _clean(answer.request_id), code, message)


def failure(request: int, code: str, message: str) -> Outcome:
    """A request that got no answer."""
    return Outcome(request, RequestState.FAILED, None, None, None, code, message)


def _error(answer: Answer, body: Any) -> tuple[str, str]:
    """Code and message out of an error body, in whichever of the usual shapes it is."""
    if answer.status is not None and 300 <= answer.status < 400:
        return "redirected", (
            f"The server answered with a redirect ({answer.status}), which is not followed: "
            "add the model with the URL that it leads to."
        )
    if answer.status is not None and answer.status < 300:
        return "invalid_response", "The engine's answer was not a JSON object."
    error = body.get("error", body) if isinstance(body, dict) else {}
    error = error if isinstance(error, dict) else {"message": str(error)}
    code = next((error[name] for name in ("code", "type") if isinstance(error.get(name), str)), None)
    message = error.get("message") or f"The engine answered with status {answer.status}."
    return _clean(code or f"http_{answer.status}")[:100], _clean(str(message))


def _count(made: Outcome, usage: Any) -> None:
    if not isinstance(usage, dict):
        return

    def number(of: Any, *names: str) -> int:
        found = next((of[name] for name in names if isinstance(of, dict) and isinstance(of.get(name), int)), 0)
        return max(0, min(int(found), 2**31 - 1))

    made.input_tokens = number(usage, "prompt_tokens", "input_tokens")
    made.output_tokens = number(usage, "completion_tokens", "output_tokens")
    made.cached_tokens = number(
        usage.get("prompt_tokens_details") or usage.get("input_tokens_details"), "cached_tokens"
    )
    details = usage.get("completion_tokens_details") or usage.get("output_tokens_details")
    made.reasoning_tokens = number(details, "reasoning_tokens")


def _bearing(body: bytes, model: str) -> str:
    """The answer as it came, with this name of the model. Raises NotAnObject."""
    members = raw_json.members(body)
    members["model"] = raw_json.raw(model)
    return one_line(raw_json.text_of(members)).decode()


def _clean(text: str | None) -> str:
    """What PostgreSQL can hold: no NUL."""
    return (text or "").replace("\0", "\N{REPLACEMENT CHARACTER}")
