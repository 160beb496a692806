"""Starts an engine with reduced options where memory is short: which options to change, and how often to try.

The change depends on what the memory was missing for. A shorter context helps where the KV cache cannot hold one
request, and loses little. A smaller share of the GPU helps where other programs use it, or where everything was in
place and the first step did not fit beside it; it would only harm where the share itself was too small.
"""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models_registry.engine import defaults, server
from models_registry.engine.log_reasons import LoadError, Shortage, ShortageKind
from models_registry.engine.server import Engine, Progress
from models_registry.engine.spec import EngineKind, EngineSpec

log = logging.getLogger(__name__)

ATTEMPTS = 8
SHORTEST = 256  # tokens of context; a shorter one is of no use
STEP = 256  # tokens; vLLM's estimate differs a little from start to start
HALVINGS = 3  # of the context, where the engine does not say how long it may be
FEWEST_TOKENS = 2048  # the least for max-num-batched-tokens
SMALLEST_SHARE, SHARE_STEP = 0.1, 0.1  # of the GPU's memory
MARGIN = 0.02  # of the GPU's memory, which other programs may take meanwhile
LEAST_CACHE = 64 * 2**20


def start(
    spec: EngineSpec,
    begin: Callable[[dict[str, Any]], Engine],
    on_progress: Progress,
    reduced: dict[str, Any] | None = None,
    sleeps: bool = False,
) -> Engine:
    """Start the engine with as few changes to the spec's options as make it fit.

    begin: starts it with these changes, or raises LoadError. reduced: changes of an earlier start, to begin with.
    sleeps: the engine can be put to sleep. Raises LoadError, with the figures and what was tried.
    """
    reduced = dict(reduced or {})
    tried: list[str] = []
    while True:
        try:
            return begin(reduced)
        except LoadError as error:
            options = server.effective(spec, reduced, sleeps)
            change = next_change(spec, options, error.shortage) if error.shortage else None
            if change is None or error.shortage is None or len(tried) + 1 == ATTEMPTS:
                raise _with(error, tried, reduced) from error
            tried.append(_words(_explicit(spec, options, error.shortage) | options, change))
            message = f"does not fit with {tried[-1]} ({error.shortage}): trying {_words(change)}"
            log.warning("Engine of %s: it %s", spec.name, message)
            on_progress(message)
            reduced = reduced | change


def next_change(spec: EngineSpec, options: dict[str, Any], short: Shortage) -> dict[str, Any] | None:
    """Options to reduce so that it may fit; None where no reduction helps. options: those that did not fit."""
    match short.of:
        case ShortageKind.CONTEXT | ShortageKind.CACHE:
            return _shorter(spec, options, short)
        case ShortageKind.SHARE:
            return _smaller(options, short)
        case ShortageKind.WARM_UP:
            return _smaller(options, short) if _on_gpu(spec) else None
        case ShortageKind.CPU_CACHE:
            return _less_cache(short)
        case ShortageKind.OTHER:
            return _shorter(spec, options, short) or (_smaller(options, short) if _on_gpu(spec) else None)
    return None


def _shorter(spec: EngineSpec, options: dict[str, Any], short: Shortage) -> dict[str, Any] | None:
    """A shorter context. Where the engine does not say that the context is too long, also fewer tokens in one step."""
    now = short.context or _context(spec, options)
    if not now:
        return None
    if short.of is ShortageKind.CONTEXT:
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
    if short.of is ShortageKind.SHARE and short.there and short.total:
        free = math.floor((short.there / short.total - MARGIN) * 100 + 1e-6) / 100
        share = free if free < now else share
    share = round(share, 2)
    return {"gpu-memory-utilization": share} if share >= SMALLEST_SHARE else None


def _less_cache(short: Shortage) -> dict[str, Any] | None:
    """A KV cache of nine tenths of the free memory: on a CPU its size is set in bytes."""
    if not short.there or (short.needed and short.there > short.needed):
        return None
    size = int(short.there * 0.9 * 2**30)
    return {"kv-cache-memory-bytes": size} if size >= LEAST_CACHE else None


def _on_gpu(spec: EngineSpec) -> bool:
    return spec.kind is EngineKind.SCRIPTED or defaults.gpu_memory() > 0


def _context(spec: EngineSpec, options: dict[str, Any]) -> int:
    """The context in tokens, by the options or else by the model's config; 0 where neither says it."""
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
    """The values of options that were not set, for a message."""
    context = short.context or _context(spec, options)
    return {"gpu-memory-utilization": defaults.UTILIZATION, "kv-cache-memory-bytes": f"for {short.needed} GiB"} | (
        {"max-model-len": context} if context else {}
    )


def _words(options: dict[str, Any], named: dict[str, Any] | None = None) -> str:
    """The options as text; with `named`, only those that it names."""
    return ", ".join(f"{name} {options[name]}" for name in (named or options) if name in options)


def _with(error: LoadError, tried: list[str], reduced: dict[str, Any]) -> LoadError:
    """The error with what was tried; unchanged when nothing was."""
    if not reduced:
        return error
    last = _words(reduced)
    numbers = f"it does not fit ({error.shortage})" if error.shortage else "it did not start with less"
    reason = f"{numbers}; tried with {'; '.join([*tried, last])}. The last time: {error.reason}"
    return LoadError(reason, error.hint, error.killed, error.shortage)
