"""How far an engine's start has come, read from its log. It goes from stage to stage, and never back.

The stages are in the order of vLLM 0.32. A line belongs to a stage when its message begins with a certain text; only
the beginning counts, because the configuration that vLLM logs first contains every word.
"""

import re
from pathlib import Path

# The beginning of a message, and the stage that begins with it. vLLM captures graphs twice: to measure, and for good.
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
_COUNTED = ("loading weights", "capturing graphs")  # stages for which the log has a percentage
_PREFIX = re.compile(r"^\([\w ]+ pid=\d+\) |^(DEBUG|INFO|WARNING|ERROR)( [\d-]+ [\d:]+)? \[[^\]]*\] ?")
_PERCENT = re.compile(r"(\d+)%( Completed)? ?\|")


class StartProgress:
    """The progress of one start. Each look reads what the log has got since the last one."""

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
        """The lines that are complete by now. Progress bars end in carriage returns."""
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
