"""The scripted engine's answers to the body of a call, in vLLM's shapes; a word counts as a token.

`route` gives, for a path, the function that reads the text out of a body, and the one that makes an answer of a text.
"""

import base64
import hashlib
import os
import struct
import time
from collections.abc import Callable, Collection
from itertools import count
from typing import Any

import orjson

DIMENSIONS = 8  # of an embedding
MOST_CHOICES = 1024
NOT_FOUND = b'{"detail":"Not Found"}'

Body = dict[str, Any]
Read = Callable[[Body], str]
Respond = Callable[[Body, str], tuple[Body, int]]  # the answer, and the number of tokens made one after the other


class RequestRefused(Exception):
    """The call is answered with an error in vLLM's shape."""

    def __init__(self, status: int, message: str, param: str | None = None, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        error = {"message": message, "type": kind, "param": param, "code": status}
        self.status, self.body = status, orjson.dumps({"error": error})


def parse(content: bytes) -> Body:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise RequestRefused(400, f"JSON decode error: {error}", "body", "Bad Request") from None
    if not isinstance(body, dict):
        raise RequestRefused(400, "Input should be a valid dictionary", "body", "Bad Request")
    return body


def check(body: Body, served: Collection[str]) -> None:
    model = body.get("model")
    if model is not None and model not in served:
        valid = ", ".join(sorted(served))
        raise RequestRefused(
            404, f"The model `{model}` does not exist. Valid aliases: {valid}.", "model", "NotFoundError"
        )
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens", "n"):
        value = body.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or value < 1:
            message = f"{name} must be at least 1, got {value}. (parameter={name}, value={value})"
            raise RequestRefused(400, message, name)
        if name == "n" and value > MOST_CHOICES:
            raise RequestRefused(
                400, f"n must be at most {MOST_CHOICES}, got {value}. (parameter=n, value={value})", "n"
            )


def route(path: str, task: str) -> tuple[Read, Respond] | None:
    """The two functions for this path; None for a path that a server of this task does not have. task: may be "any"."""
    if task != "any" and path not in _OF_TASK.get(task, _WRITING):
        return None
    if path == "/v1/chat/completions" and task == "completion":
        return _no_chat, _chat
    return _ROUTES.get(path)


def _no_chat(body: Body) -> str:
    raise RequestRefused(400, "This model has no chat template, so it cannot chat; use /v1/completions.")


def _chat_text(body: Body) -> str:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise _required("messages")
    for message in reversed(messages):
        if message.get("role") == "user":
            return _content(message.get("content"))
    return ""


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _prompt_text(body: Body) -> str:
    return "\n".join(_items(body, "prompt"))


def _input_text(body: Body) -> str:
    return "\n".join(_items(body, "input"))


def _score_text(body: Body) -> str:
    return "\n".join(_sides(body)[0])


def _sides(body: Body) -> tuple[list[str], list[str]]:
    """The two sides of a score, as long as each other. vLLM knows them by several names."""
    pair = next((pair for pair in _PAIRS if all(body.get(name) is not None for name in pair)), None)
    if pair is None:
        raise _required(_PAIRS[0][0])
    one, other = (_scored(body[name], name) for name in pair)
    if len(one) not in (1, len(other)):
        raise RequestRefused(400, "Input lengths must be either 1:1, 1:N or N:N")
    return one * (len(other) // len(one)), other


def _scored(given: Any, name: str) -> list[str]:
    items = given if isinstance(given, list) else [given]
    if not items or not all(isinstance(item, str | dict) for item in items):
        raise RequestRefused(400, "At least one text element must be given", name)
    return [item if isinstance(item, str) else _content(item.get("content")) for item in items]


def _response_text(body: Body) -> str:
    given = body.get("input")
    return _chat_text({"messages": given}) if isinstance(given, list) else _input_text(body)


def _items(body: Body, field: str) -> list[str]:
    """The texts of a field that holds a text, a list of texts, a list of token numbers, or a list of such lists."""
    given = body.get(field)
    if given is None or given == []:
        raise _required(field)
    if isinstance(given, list) and not all(isinstance(item, int) for item in given):
        return [_text(item) for item in given]
    return [_text(given)]


def _text(item: Any) -> str:
    return " ".join(map(str, item)) if isinstance(item, list) else str(item)


def _required(field: str) -> RequestRefused:
    message = f"1 validation error:\n  {{'type': 'missing', 'loc': 'body.{field}', 'msg': 'Field required'}}"
    return RequestRefused(400, message, f"body.{field}", "Bad Request")


def _cut(text: str, most: int | None) -> tuple[str, int, str]:
    """The beginning of this text in at most so many tokens: the text, its tokens, and the finish reason."""
    words = text.split()
    if most is None or len(words) <= most:
        return text, len(words), "stop"
    return " ".join(words[:most]), most, "length"


def _chat(body: Body, said: str) -> tuple[Body, int]:
    asked = sum(len(_content(message.get("content")).split()) for message in body["messages"])
    said, tokens, reason = _cut(said, body.get("max_completion_tokens") or body.get("max_tokens"))
    choices = body.get("n") or 1
    answer = _head("chatcmpl", "chat.completion", body) | {
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": said, "refusal": None},
                "logprobs": None,
                "finish_reason": reason,
            }
            for index in range(choices)
        ],
        "usage": _usage(asked, tokens * choices),
    }
    return answer, tokens


def _completion(body: Body, said: str) -> tuple[Body, int]:
    prompts = _items(body, "prompt")
    texts = prompts if len(prompts) > 1 else [said]
    cuts = [_cut(text, body.get("max_tokens")) for text in texts for _ in range(body.get("n") or 1)]
    answer = _head("cmpl", "text_completion", body) | {
        "choices": [
            {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
            for index, (text, _, reason) in enumerate(cuts)
        ],
        "usage": _usage(sum(len(prompt.split()) for prompt in prompts), sum(tokens for _, tokens, _ in cuts)),
    }
    return answer, max(tokens for _, tokens, _ in cuts)


def _embedding(body: Body, said: str) -> tuple[Body, int]:
    inputs = _items(body, "input")
    packed = body.get("encoding_format") == "base64"
    answer = _head("embd", "list", body) | {
        "data": [
            {"index": index, "object": "embedding", "embedding": _vector(text, packed)}
            for index, text in enumerate(inputs if len(inputs) > 1 else [said])
        ],
        "usage": _usage(sum(len(text.split()) for text in inputs), 0),
    }
    return answer, 0


def _vector(text: str, packed: bool) -> list[float] | str:
    """A unit vector that depends only on the text."""
    digest = hashlib.sha1(text.encode(errors="replace"), usedforsecurity=False).digest()
    raw = [byte - 127.5 for byte in digest[:DIMENSIONS]]
    length = sum(value * value for value in raw) ** 0.5
    vector = [value / length for value in raw]
    return base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *vector)).decode() if packed else vector


def _score(body: Body, said: str) -> tuple[Body, int]:
    one, other = _sides(body)
    scores = [_likeness(*pair) for pair in zip(one, other, strict=True)]
    answer = _head("score", "list", body) | {
        "data": [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)],
        "usage": _usage(sum(len(text.split()) for text in (*one, *other)), 0),
    }
    return answer, 0


def _ranking(body: Body, said: str) -> tuple[Body, int]:
    one, other = _sides(body)
    results: list[Body] = [
        {"index": index, "document": {"text": text, "multi_modal": None}, "relevance_score": _likeness(query, text)}
        for index, (query, text) in enumerate(zip(one, other, strict=True))
    ]
    results.sort(key=lambda result: result["relevance_score"], reverse=True)
    read = sum(len(text.split()) for text in (*one, *other))
    usage = {"prompt_tokens": read, "total_tokens": read}
    best = results[: body.get("top_n") or len(results)]
    return {"id": _id("score"), "model": body.get("model"), "usage": usage, "results": best}, 0


def _likeness(one: str, other: str) -> float:
    """The share of the words of two texts that are in both."""
    words, more = set(one.lower().split()), set(other.lower().split())
    return len(words & more) / max(len(words | more), 1)


def _response(body: Body, said: str) -> tuple[Body, int]:
    most = body.get("max_output_tokens")
    asked = len(_response_text(body).split())
    said, tokens, reason = _cut(said, most)
    content: Body = {"type": "output_text", "text": said, "annotations": [], "logprobs": None}
    message = {"id": _id("msg"), "type": "message", "role": "assistant", "status": "completed", "content": [content]}
    answer = {
        "id": _id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "model": body.get("model"),
        "status": "completed" if reason == "stop" else "incomplete",
        "incomplete_details": None if reason == "stop" else {"reason": "max_output_tokens"},
        "error": None,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata"),
        "output": [message],
        "parallel_tool_calls": True,
        "temperature": body.get("temperature", 1.0),
        "tool_choice": "none",
        "tools": [],
        "top_p": body.get("top_p", 1.0),
        "max_output_tokens": most,
        "usage": {
            "input_tokens": asked,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": asked + tokens,
        },
    }
    return answer, tokens


_PAIRS = (
    ("queries", "documents"),
    ("queries", "items"),
    ("data_1", "data_2"),
    ("text_1", "text_2"),
    ("query", "documents"),
)
_WRITING = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
_OF_TASK = {
    "embedding": ("/v1/embeddings", "/v1/score", "/v1/rerank"),
    "score": ("/v1/score", "/v1/rerank"),
}
_ROUTES: dict[str, tuple[Read, Respond]] = {
    "/v1/chat/completions": (_chat_text, _chat),
    "/v1/completions": (_prompt_text, _completion),
    "/v1/embeddings": (_input_text, _embedding),
    "/v1/responses": (_response_text, _response),
    "/v1/score": (_score_text, _score),
    "/v1/rerank": (_score_text, _ranking),
}
_numbers = count(1)


def _head(prefix: str, kind: str, body: Body) -> Body:
    return {"id": _id(prefix), "object": kind, "created": int(time.time()), "model": body.get("model")}


def _id(prefix: str) -> str:
    return f"{prefix}-{os.getpid():x}{next(_numbers):010x}"


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
