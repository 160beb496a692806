"""The scripted engine's streams: a whole answer as the events in which vLLM would send it, a word at a time."""

import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import orjson

from models_registry.engine.scripted.answers import Body

_WORDS = re.compile(r"\S+\s*|\s+")
DONE = b"data: [DONE]\n\n"


def events(path: str, body: Body, answer: Body) -> list[bytes] | None:
    """None for what is not streamed: the body does not ask for it, or nothing is made word by word there."""
    if not body.get("stream") or path not in _OF_PATH:
        return None
    return list(_OF_PATH[path](body, answer))


def _event(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


def _words(texts: list[str]) -> Iterator[tuple[int, str]]:
    """The words of all texts, those that would come at the same time together."""
    for step in zip_longest(*(_WORDS.findall(text) for text in texts)):
        for index, word in enumerate(step):
            if word is not None:
                yield index, word


def _usage(body: Body, answer: Body, head: Body) -> Iterator[bytes]:
    options = body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        yield _event(head | {"choices": [], "usage": answer["usage"]})
    yield DONE


def _chat(body: Body, answer: Body) -> Iterator[bytes]:
    head = {name: answer[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}

    def chunk(index: int, delta: Body, reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event(head | {"choices": [choice]})

    choices = answer["choices"]
    for index in range(len(choices)):
        yield chunk(index, {"role": "assistant", "content": ""})
    for index, word in _words([choice["message"]["content"] for choice in choices]):
        yield chunk(index, {"content": word})
    for index, choice in enumerate(choices):
        yield chunk(index, {"content": ""}, choice["finish_reason"])
    yield from _usage(body, answer, head)


def _completion(body: Body, answer: Body) -> Iterator[bytes]:
    head = {name: answer[name] for name in ("id", "created", "model", "object")}

    def chunk(index: int, text: str, reason: str | None = None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": reason, "stop_reason": None}
        return _event(head | {"choices": [choice]})

    choices = answer["choices"]
    for index, word in _words([choice["text"] for choice in choices]):
        yield chunk(index, word)
    for index, choice in enumerate(choices):
        yield chunk(index, "", choice["finish_reason"])
    yield from _usage(body, answer, head)


def _response(body: Body, answer: Body) -> Iterator[bytes]:
    message = answer["output"][0]
    text = message["content"][0]["text"]
    begun = answer | {"status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    place = {"item_id": message["id"], "output_index": 0}
    part = place | {"content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    steps: list[Body] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": message | {"content": [], "status": "in_progress"},
        },
        {"type": "response.content_part.added", **part, "part": empty},
        *(
            {"type": "response.output_text.delta", **part, "delta": word, "logprobs": []}
            for word in _WORDS.findall(text)
        ),
        {"type": "response.output_text.done", **part, "text": text, "logprobs": []},
        {"type": "response.content_part.done", **part, "part": message["content"][0]},
        {"type": "response.output_item.done", "output_index": 0, "item": message},
        {"type": f"response.{answer['status']}", "response": answer},
    ]
    for number, step in enumerate(steps):
        yield f"event: {step['type']}\n".encode() + _event(step | {"sequence_number": number})


_OF_PATH = {"/v1/chat/completions": _chat, "/v1/completions": _completion, "/v1/responses": _response}
