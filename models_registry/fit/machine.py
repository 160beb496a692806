"""What this machine offers a model, and what a model's engine options ask of it, in the terms of `fit`.

One machine and its first GPU: of GPUs that share a model it takes for granted that they are alike. Knows neither
registry nor engine processes; an engine that runs already is not subtracted on a GPU, where a swap frees it.
"""

import re
from collections.abc import Mapping
from typing import Any

from models_registry.engine import defaults
from models_registry.engine.machine import main_memory
from models_registry.fit.formula import GIB, FitError, Load, Room

DTYPES = {"float32": 32, "float": 32}  # the others have 16 bits; so has auto, which halves weights stored with 32
CACHE_DTYPES = re.compile(r"(?P<four>int4|nvfp4)|(?P<eight>fp8|int8)")
# What vLLM quantizes to while it loads; other names say how weights are stored, which their headers tell.
QUANTIZATIONS = {
    "fp8_per_tensor": 8.0,
    "fp8_per_block": 8.0,
    "fp8_per_channel": 8.0,
    "int8_per_channel_weight_only": 8.0,
    "mxfp8": 8.25,
    "nvfp4_per_token": 4.5,
}
MULTIPLES = {"k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20}


def here(options: Mapping[str, Any]) -> Room:
    """What the engine may take here. Raises FitError."""
    memory = main_memory.available()
    if total := defaults.gpu_memory():
        if "kv-cache-memory-bytes" in options:  # takes the place of the share
            return Room("gpu", total, cache=_count(options, "kv-cache-memory-bytes", 0), host=memory)
        share = _number(options, "gpu-memory-utilization", defaults.UTILIZATION)
        if not 0 < share <= 1:
            raise FitError(f"gpu-memory-utilization is {share}: give a fraction above 0 and up to 1")
        return Room("gpu", int(total * share), host=memory)
    space = defaults.environment().get("VLLM_CPU_KVCACHE_SPACE", "")
    if space and not space.isdecimal():
        raise FitError(f"VLLM_CPU_KVCACHE_SPACE is {space!r}: give whole GiB")
    return Room("cpu", memory, cache=int(space) * GIB if space else None)


def load(options: Mapping[str, Any], model_context: int) -> Load:
    """From engine options as `engine.defaults.options` gives them. Raises FitError for what is no number."""
    bits = DTYPES.get(str(options.get("dtype")), 16)
    length = options.get("max-model-len")
    return Load(
        context=model_context if length in (None, -1, "auto") else _count(options, "max-model-len", model_context),
        bits=bits,
        quantized=QUANTIZATIONS.get(str(options.get("quantization"))),
        cache_bits=_cache_bits(str(options.get("kv-cache-dtype", "auto")), bits),
        batched_tokens=_count(options, "max-num-batched-tokens", Load.batched_tokens),
        max_sequences=_count(options, "max-num-seqs", Load.max_sequences),
        lora_slots=_count(options, "max-loras", 1) if options.get("enable-lora") is True else 0,
        lora_rank=_count(options, "max-lora-rank", Load.lora_rank),
        offload=int(_number(options, "cpu-offload-gb", 0) * GIB),
        parallel=_count(options, "tensor-parallel-size", 1),
    )


def _cache_bits(name: str, computed: int) -> int:
    if name == "auto":
        return computed
    found = CACHE_DTYPES.match(name)
    return {"four": 4, "eight": 8}[str(found.lastgroup)] if found else 16


def _count(options: Mapping[str, Any], name: str, default: int) -> int:
    """A whole number from 1 on; also as vLLM reads it, such as 32k."""
    value = options.get(name, default)
    if found := re.fullmatch(r"(\d{1,12})([kKmM]?)", str(value)):
        value = int(found[1]) * MULTIPLES.get(found[2], 1)
        if value > 0:
            return value
    raise FitError(f"{name} is {value!r}: give a whole number from 1 on")


def _number(options: Mapping[str, Any], name: str, default: float) -> float:
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**40:
        raise FitError(f"{name} is {value!r}: give a number from 0 on")
    return value
