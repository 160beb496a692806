"""How far an engine's start has come, read from its log. It goes from phase to phase, and never back.

The phases are in the order of vLLM 0.32. A line belongs to a phase when its message begins with a certain text; only
the beginning counts, because the configuration that vLLM logs first contains every word. A load may take several
starts, and each of them begins anew: `Starts` tells them apart.
"""

import re
from collections.abc import Callable
from pathlib import Path

# The beginning of a message, and the phase that begins with it. vLLM captures graphs twice: to measure, and for good.
_PHASES = (
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
_MESSAGES = tuple(re.compile(rf"(?:{pattern})") for pattern, _ in _PHASES)
_WORDS = tuple(words for _, words in _PHASES)
_COUNTED = ("loading weights", "capturing graphs")  # phases for which the log has a percentage
_PREFIX = re.compile(r"^\([\w ]+ pid=\d+\) |^(DEBUG|INFO|WARNING|ERROR)( [\d-]+ [\d:]+)? \[[^\]]*\] ?")
_PERCENT = re.compile(r"(\d+)%( Completed)? ?\|")

# At which part of a start each phase begins, in per cent: about as on an H200 (tests/…/engine_logs/h200-start.log).
_BEGINS = {
    "starting": 0,
    "starting the engine": 10,
    "loading weights": 25,
    "compiling": 40,
    "measuring its memory": 55,
    "warming up": 65,
    "capturing graphs": 80,
    "almost ready": 95,
}
_ENDS = dict(zip(_BEGINS, [*list(_BEGINS.values())[1:], 99], strict=True))
_TOLD = re.compile(r"(?:attempt \d+: )?([a-z ]+?)(?: \((\d+) %\))?")
_LOAD = re.compile(r"(Loading \S+?)(?:: (attempt \d+): |: |$)")


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
        for phase in range(max(self._reached, 0), len(_PHASES)):
            if not _MESSAGES[phase].match(line):
                continue
            found = _PERCENT.search(line) if _WORDS[phase] in _COUNTED else None
            before = self._percent if self._reached >= 0 and _WORDS[self._reached] == _WORDS[phase] else None
            self._percent = max(min(int(found[1]), 100), before or 0) if found else before
            self._reached = phase
            return


class Starts:
    """The starts that one load takes: with reduced options after one that did not fit, or again after one that was
    killed. tell: gets what each of them does, from the second on with its number, such as `attempt 2: starting`."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.count = 0

    def begin(self) -> Callable[[str], None]:
        """What the next start is to tell its progress."""
        self.count += 1
        number = self.count
        return self._tell if number == 1 else lambda doing: self._tell(f"attempt {number}: {doing}")


def percent(doing: str) -> int | None:
    """How much of its start an engine has behind it that does this, about; None where that is not known."""
    found = _TOLD.fullmatch(doing)
    if found is None or found[1] not in _BEGINS:
        return None
    begins, ends = _BEGINS[found[1]], _ENDS[found[1]]
    return begins + (ends - begins) * int(found[2] or 0) // 100


def start_of(activity: str) -> str:
    """Which start a worker is at, by its activity such as `Loading tiny: attempt 2: compiling`; empty without one."""
    found = _LOAD.match(activity)
    return " ".join(filter(None, found.groups())) if found else ""
