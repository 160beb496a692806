"""An engine's answers on their way to the client: under the name that was asked for, and with their usage read.

All else passes byte for byte. An unescaped quote ends a text in JSON, so `"model":"…"` is never found within one.
"""

import re
from dataclasses import dataclass
from typing import Any

import orjson

from models_registry.engine.error_bodies import parsed
from vbs.openai import raw_json
from vbs.openai.raw_json import NotAnObject

MOST_TOKENS = 2**24  # of one request or answer; no model has a longer context
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")  # of an event
_BETWEEN = re.compile(rb"(\r?\n\r?\n|\r\r)")
# Text in an event: of a chat or a completion; and of /v1/responses, whose last events have all of it again.
_TEXT = re.compile(rb'"(?:content|reasoning|reasoning_content|text|arguments|refusal)"\s*:\s*"(?!")')
_DELTA = re.compile(rb'"delta"\s*:\s*"(?!")')


@dataclass
class Usage:
    input_tokens: int = 0
    output_tokens: int = 0

    def read(self, found: Any) -> None:
        """Take over what an answer says. A number that cannot be is left out."""
        if not isinstance(found, dict):
            return

        def number(before: int, *names: str) -> int:
            given = next((found[name] for name in names if type(found.get(name)) is int), before)
            return given if 0 <= given <= MOST_TOKENS else before

        self.input_tokens = number(self.input_tokens, "prompt_tokens", "input_tokens")
        self.output_tokens = number(self.output_tokens, "completion_tokens", "output_tokens")


class AnswerTooLong(Exception):
    """An event, or an answer, has more bytes than it may have."""


class Events:
    """A stream of server-sent events, passed on event by event.

    usage: as the engine says it. Until it does, each event with text counts as one token, since a client that goes away
    before the end has read those all the same.
    hides_usage: the client did not ask for the last event, which has only the usage. most_bytes: of one event.
    """

    def __init__(self, served_name: str, asked_name: str, hides_usage: bool, most_bytes: int) -> None:
        self.usage = Usage()
        self._hides_usage, self._most = hides_usage, most_bytes
        self._held = b""
        self._named: re.Pattern[bytes] | None = None
        if served_name != asked_name:
            self._named = re.compile(rb'("model"\s*:\s*)' + re.escape(orjson.dumps(served_name)))
            self._name = orjson.dumps(asked_name)

    def take(self, data: bytes) -> bytes:
        """The events that are complete with this data, as the client gets them. Raises AnswerTooLong."""
        begin = max(0, len(self._held) - 3)
        held = self._held + data
        cut = max((at + len(end) for end in _ENDS if (at := held.rfind(end, begin)) >= 0), default=0)
        whole, self._held = held[:cut], held[cut:]
        if len(self._held) > self._most:
            raise AnswerTooLong
        return self._passed(whole) if whole else b""

    def rest(self) -> bytes:
        """What came after the last complete event, when the stream has ended."""
        held, self._held = self._held, b""
        return self._passed(held) if held else b""

    def _passed(self, whole: bytes) -> bytes:
        if self._named and b'"model"' in whole:
            name = self._name
            whole = self._named.sub(lambda found: found[1] + name, whole)
        pieces = _BETWEEN.split(whole)  # events, and what ends each of them
        kept = []
        for event, end in zip(pieces[::2], [*pieces[1::2], b""], strict=True):
            if _DELTA.search(event) or (b'"choices"' in event and _TEXT.search(event)):
                self.usage.output_tokens += 1
            if not (_USAGE.search(event) and self._read(event) and self._hides_usage):
                kept += [event, end]
        return b"".join(kept)

    def _read(self, event: bytes) -> bool:
        """Read the usage of an event. Is that all that it has?"""
        data = b"\n".join(line[5:] for line in event.splitlines() if line.startswith(b"data:"))
        found = parsed(data)
        if not isinstance(found, dict):
            return False
        within = found.get("response")  # of an event of /v1/responses
        self.usage.read(found.get("usage") or (within.get("usage") if isinstance(within, dict) else None))
        return found.get("choices") == []


def whole(content: bytes, served_name: str, asked_name: str) -> tuple[bytes, Usage]:
    """An answer in one piece. One that is no JSON object passes as it is."""
    usage = Usage()
    try:
        members = raw_json.members(content)
    except NotAnObject:
        return content, usage
    if "usage" in members:
        usage.read(raw_json.value(members["usage"]))
    if served_name != asked_name and "model" in members:
        members["model"] = raw_json.raw(asked_name)
        content = raw_json.text_of(members)
    return content, usage
