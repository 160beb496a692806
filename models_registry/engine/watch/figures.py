"""An engine's own figures: how many requests run and wait in it, how full its cache is, and what it has done so far.

vLLM tells them at /metrics as Prometheus reads it. That is hundreds of lines; only the few that are wanted are read.
"""

import math
import re
from collections import defaultdict
from dataclasses import dataclass

from models_registry.engine import control
from models_registry.engine.spec import Address

_NAMES = (
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "num_preemptions_total",
    "prompt_tokens_total",
    "generation_tokens_total",
)
_LINE = re.compile(rf"^vllm:({'|'.join(_NAMES)})(?:\{{.*\}})? (\S+)(?: -?\d+)?$", re.MULTILINE)
MOST_BYTES = 4 * 2**20  # of an answer


@dataclass(frozen=True)
class Figures:
    """running, waiting: requests. cache: the used share of the cache of keys and values. preempted: how often a request
    had to leave it, since the engine's start. tokens: that it has read and written since then."""

    running: int
    waiting: int
    cache: float
    preempted: int
    tokens: int


def read(text: str) -> Figures | None:
    """The figures in an answer of /metrics, where several engines stand together added up; None where it has none, or
    nonsense."""
    found: dict[str, list[float]] = defaultdict(list)
    try:
        for name, value in _LINE.findall(text):
            found[name].append(float(value))
    except ValueError:
        return None
    if not found.keys() >= {"num_requests_running", "num_requests_waiting"}:
        return None
    if not all(math.isfinite(value) and value >= 0 for values in found.values() for value in values):
        return None
    counts = {name: int(sum(found[name])) for name in _NAMES}
    return Figures(
        counts["num_requests_running"],
        counts["num_requests_waiting"],
        max(found["kv_cache_usage_perc"], default=0.0),
        counts["num_preemptions_total"],
        counts["prompt_tokens_total"] + counts["generation_tokens_total"],
    )


def ask(address: Address, timeout: float) -> Figures | None:
    """The figures of the engine at this address; None where it tells none."""
    try:
        status, body = control.request(address, "GET", "/metrics", timeout=timeout)
    except control.NO_ANSWER:
        return None
    return read(body.decode(errors="replace")) if status == 200 else None
