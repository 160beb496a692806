"""How far the start of an engine has come, by what it writes: from stage to stage, never back.

The stages are in the order in which vLLM 0.32 goes through them. A line belongs to one when its message begins so: the
prefix of every line names its process, and the configuration that is written at the beginning names everything.
"""

import re
from pathlib import Path

# Beginnings of messages; what each says has begun. A GPU captures its graphs twice: to try them, and for good.
_STAGES = (
    (r"Initializing a V\d LLM engine", "starting the engine"),
    (r"(Starting to load model|Loading model from|Loading weights)", "loading weights"),
    (r"Loading (safetensors|pt|checkpoint)[\w ]* shards:", "loading weights"),
    (r"(\[\w+\] )?(Starting torch\.compile|Using cache directory|Compiling a graph|Dynamo bytecode)", "compiling"),
    (r"(\[\w+\] )?(Initial profiling/warmup run|torch\.compile took)", "measuring its memory"),
    (r"Capturing CUDA graphs?", "measuring its memory"),
    (r"(GPU|CPU) KV cache size|# \w+ blocks|Warming up|JIT kernel warmup", "warming up"),
    (r"Capturing CUDA graphs?", "capturing graphs"),
    (
        r"init engine \(|Supported tasks|Starting vLLM server|(INFO: +)?(Started server process|Application startup)",
        "almost ready",
    ),
)
_MESSAGES = tuple(re.compile(rf"(?:{pattern})") for pattern, _ in _STAGES)
_WORDS = tuple(words for _, words in _STAGES)
_COUNTED = ("loading weights", "capturing graphs")  # of which it says how far it is
_PREFIX = re.compile(r"^\([\w ]+ pid=\d+\) |^(DEBUG|INFO|WARNING|ERROR)( [\d-]+ [\d:]+)? \[[^\]]*\] ?")
_PERCENT = re.compile(r"(\d+)%( Completed)? ?\|")


class Stages:
    """One start's. Reads what has been written since it last looked."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._read = 0
        self._reached = -1
        self._percent: int | None = None

    def look(self) -> str:
        """What the engine is doing, e.g. `loading weights (50 %)`."""
        for line in self._lines():
            self._see(line)
        if self._reached < 0:
            return "starting"
        return _WORDS[self._reached] + (f" ({self._percent} %)" if self._percent is not None else "")

    def _lines(self) -> list[str]:
        """Those that are whole by now. A bar is drawn over itself, with carriage returns."""
        try:
            with self.log.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except OSError:
            return []
        whole = max(new.rfind(b"\n"), new.rfind(b"\r")) + 1
        self._read += whole
        return re.split(r"[\r\n]+", new[:whole].decode(errors="replace"))

    def _see(self, line: str) -> None:
        while stripped := _PREFIX.match(line):
            line = line[stripped.end() :]
        for stage in range(max(self._reached, 0), len(_STAGES)):
            if not _MESSAGES[stage].match(line):
                continue
            found = _PERCENT.search(line) if _WORDS[stage] in _COUNTED else None
            before = self._percent if self._reached >= 0 and _WORDS[self._reached] == _WORDS[stage] else None
            self._percent = max(int(found[1]), before or 0) if found else before
            self._reached = stage
            return
