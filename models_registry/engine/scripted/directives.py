"""The directives in a call's text that make the scripted engine misbehave; `scripted.server` describes them."""

import re
from dataclasses import dataclass
from pathlib import Path

from models_registry.engine.scripted.answers import RequestRefused

FOREVER = float("inf")
_DIRECTIVE = re.compile(r"\[\[([a-z-]+)((?: [^\s\]]+)*)\]\]")


@dataclass(slots=True)
class ScriptedReply:
    status: int
    body: bytes
    events: list[bytes] | None = None  # of a stream, in the place of the body
    extra_headers: str = ""
    content_type: str = "application/json"


@dataclass(slots=True)
class Script:
    """What the directives of a call demand."""

    crash: bool = False
    drop: bool = False
    extra_ms: float = 0
    size: int | None = None
    words: int | None = None
    cut: int | None = None
    reply: ScriptedReply | None = None

    def said(self, text: str) -> str:
        """The text of the answer to a request with this text."""
        if self.words is not None:
            return " ".join(["word"] * self.words)
        return text if self.size is None else "x" * self.size


def read_script(text: str, counters: bool) -> Script:
    """What the directives in a text demand this time. A directive that makes no sense is answered with a 400.

    counters: whether directives may count in files.
    """
    script = Script()
    for match in _DIRECTIVE.finditer(text):
        name, arguments = match[1], match[2].split()
        try:
            if name.endswith("-times"):
                if not counters:
                    raise ValueError("this engine was started without --counters, so it does not count in files")
                name = name.removesuffix("-times")
                *arguments, most, counter = arguments
                if not _once_more(Path(counter), int(most)):
                    continue
            _add(script, name, arguments)
        except (ValueError, OSError) as error:
            script.reply = _demanded(400, f"{match[0]}: {error}")
    return script


def _once_more(counter: Path, most: int) -> bool:
    with counter.open("ab") as file:
        if file.tell() >= most:
            return False
        file.write(b".")
        return True


def _add(script: Script, name: str, arguments: list[str]) -> None:
    match name, arguments:
        case "crash", []:
            script.crash = True
        case "drop", []:
            script.drop = True
        case "hang", []:
            script.extra_ms = FOREVER
        case "garbage", []:
            script.reply = ScriptedReply(200, b'{"id": "chatcmpl-')
        case "delay-ms", [milliseconds] if 0 <= float(milliseconds) < 1e9:
            script.extra_ms += float(milliseconds)
        case "bytes", [size] if 0 <= int(size) <= 2**30:
            script.size = int(size)
        case "cut", [events] if int(events) >= 0:
            script.cut = int(events)
        case "words", [words] if 0 <= int(words) <= 2**20:
            script.words = int(words)
        case "status", [status] if 200 <= int(status) <= 599:
            script.reply = _demanded(int(status), f"Status {status}, as the request's text demands.")
        case "retry-after", [seconds]:
            script.reply = _demanded(429, "Too many requests, as the request's text demands.")
            script.reply.extra_headers = f"retry-after: {seconds}\r\n"
        case _:
            raise ValueError("the scripted engine has no such directive")


def _demanded(status: int, message: str) -> ScriptedReply:
    return ScriptedReply(status, RequestRefused(status, message, kind="ScriptedError").body)
