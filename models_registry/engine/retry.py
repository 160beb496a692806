"""A start that found too little memory, tried again with less: what to change, how often, and what is said of it.

What helps depends on what there was no room for. A shorter context helps where the KV cache cannot hold one request,
and is no great loss. A smaller share of the GPU helps where others use it, or where all was in place and the first
batch did not fit beside it; it would only hurt where the share itself was too small.
"""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models_registry.engine import defaults, server
from models_registry.engine.reasons import Lack, LoadError, Shortage
from models_registry.engine.server import Engine, Progress
from models_registry.engine.spec import EngineKind, EngineSpec

log = logging.getLogger(__name__)

ATTEMPTS = 8
SHORTEST = 256  # tokens of context; with less than that nobody can do anything
STEP = 256  # what vLLM estimates differs a little from start to start
HALVINGS = 3  # of the context, where nothing says how long it may be
FEWEST_TOKENS = 2048  # computed in one step
SMALLEST_SHARE, SHARE_STEP = 0.1, 0.1
MARGIN = 0.02  # of the GPU, which others may take meanwhile
LEAST_CACHE = 64 * 2**20


def start(
    spec: EngineSpec,
    begin: Callable[[dict[str, Any]], Engine],
    on_progress: Progress,
    less: dict[str, Any] | None = None,
    sleeps: bool = False,
) -> Engine:
    """What `begin` makes of the fewest changes to the spec's options that let it fit.

    begin starts it with these options changed, or raises LoadError. less: changes to begin with. sleeps: as
    `server.start` is told. Raises LoadError with the numbers and what was tried.
    """
    less = dict(less or {})
    tried: list[str] = []
    while True:
        try:
            return begin(less)
        except LoadError as error:
            options = server.effective(spec, less, sleeps)
            change = next_change(spec, options, error.shortage) if error.shortage else None
            if change is None or error.shortage is None or len(tried) + 1 == ATTEMPTS:
                raise _with(error, tried, less) from error
            tried.append(_words(_explicit(spec, options, error.shortage) | options, change))
            said = f"does not fit with {tried[-1]} ({error.shortage}): trying {_words(change)}"
            log.warning("%s %s", spec.name, said)
            on_progress(said)
            less = less | change


def next_change(spec: EngineSpec, options: dict[str, Any], short: Shortage) -> dict[str, Any] | None:
    """Options with less, so that it may fit; None where no less helps. options: those that it did not fit with."""
    match short.of:
        case Lack.CONTEXT | Lack.CACHE:
            return _shorter(spec, options, short)
        case Lack.SHARE:
            return _smaller(options, short)
        case Lack.WARM_UP:
            return _smaller(options, short) if _on_gpu(spec) else None
        case Lack.CPU_CACHE:
            return _less_cache(short)
        case Lack.OTHER:
            return _shorter(spec, options, short) or (_smaller(options, short) if _on_gpu(spec) else None)
    return None


def _shorter(spec: EngineSpec, options: dict[str, Any], short: Shortage) -> dict[str, Any] | None:
    """A shorter context; and where nothing is said of the context, not many more tokens in one step than that."""
    now = short.context or _context(spec, options)
    if not now:
        return None
    if short.of is Lack.CONTEXT:
        fits = min(short.longest or now // 2, now - 1)
        shorter = max(fits // STEP * STEP, SHORTEST)
        return {"max-model-len": shorter} if fits >= SHORTEST and shorter < now else None
    asked = _context(spec, dict(spec.args)) or now
    shorter = now // 2
    if shorter < max(SHORTEST, asked >> HALVINGS):
        return None
    change = {"max-model-len": shorter}
    most = max(shorter, FEWEST_TOKENS)
    if _whole(options.get("max-num-batched-tokens"), 0) > most:
        change["max-num-batched-tokens"] = most
    return change


def _smaller(options: dict[str, Any], short: Shortage) -> dict[str, Any] | None:
    now = options.get("gpu-memory-utilization")
    now = now if isinstance(now, int | float) else defaults.UTILIZATION
    share = now - SHARE_STEP
    if short.of is Lack.SHARE and short.there and short.total:
        free = math.floor((short.there / short.total - MARGIN) * 100 + 1e-6) / 100
        share = free if free < now else share
    share = round(share, 2)
    return {"gpu-memory-utilization": share} if share >= SMALLEST_SHARE else None


def _less_cache(short: Shortage) -> dict[str, Any] | None:
    """The KV cache of a CPU is set in bytes: nine tenths of what is there."""
    if not short.there or (short.needed and short.there > short.needed):
        return None
    size = int(short.there * 0.9 * 2**30)
    return {"kv-cache-memory-bytes": size} if size >= LEAST_CACHE else None


def _on_gpu(spec: EngineSpec) -> bool:
    return spec.kind is EngineKind.SCRIPTED or defaults.gpu_memory() > 0


def _context(spec: EngineSpec, options: dict[str, Any]) -> int:
    """Tokens that a request may have: as the options say, else the model's own; 0 where neither is known."""
    if (given := _whole(options.get("max-model-len"), 0)) > 0:
        return given
    try:
        config = json.loads((Path(spec.source) / "config.json").read_text())
        config = config.get("text_config") or config
        return _whole(config.get("max_position_embeddings"), 0)
    except (OSError, ValueError, AttributeError):
        return 0


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def _explicit(spec: EngineSpec, options: dict[str, Any], short: Shortage) -> dict[str, Any]:
    """What it is where the options do not say."""
    context = short.context or _context(spec, options)
    return {"gpu-memory-utilization": defaults.UTILIZATION, "kv-cache-memory-bytes": f"for {short.needed} GiB"} | (
        {"max-model-len": context} if context else {}
    )


def _words(options: dict[str, Any], named: dict[str, Any] | None = None) -> str:
    """The options; of the first, those that the second names."""
    return ", ".join(f"{name} {options[name]}" for name in (named or options) if name in options)


def _with(error: LoadError, tried: list[str], less: dict[str, Any]) -> LoadError:
    """The same with what was tried; just the same when that was nothing."""
    if not less:
        return error
    last = _words(less)
    numbers = f"it does not fit ({error.shortage})" if error.shortage else "it did not start with less"
    reason = f"{numbers}; tried with {'; '.join([*tried, last])}. The last time: {error.reason}"
    return LoadError(reason, error.hint, error.killed, error.shortage)
