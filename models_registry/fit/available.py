"""The memory that this machine has for a model, and what a model's engine options ask for, as `fit.formula` takes them.

Only the first GPU is looked at: GPUs that share a model are assumed to be alike. On a GPU the memory of a loaded engine
counts as available, because the engine makes way for the next one.
"""

import re
from collections.abc import Mapping
from typing import Any

from models_registry.engine import defaults
from models_registry.engine.machine import main_memory
from models_registry.fit.formula import GIB, AvailableMemory, EngineSettings, FitError

DTYPES = {"float32": 32, "float": 32}  # all others have 16 bits, also auto, for weights stored with 32 too
CACHE_DTYPES = re.compile(r"(?P<four>int4|nvfp4)|(?P<eight>fp8|int8)")
# Bits of the methods with which vLLM quantizes while loading. Other methods name how weights are stored, as headers do.
QUANTIZATIONS = {
    "fp8_per_tensor": 8.0,
    "fp8_per_block": 8.0,
    "fp8_per_channel": 8.0,
    "int8_per_channel_weight_only": 8.0,
    "mxfp8": 8.25,
    "nvfp4_per_token": 4.5,
}
MULTIPLES = {"k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20}


def available_memory(options: Mapping[str, Any]) -> AvailableMemory:
    """The memory that an engine may use here. Raises FitError."""
    memory = main_memory.available()
    if total := defaults.gpu_memory():
        if "kv-cache-memory-bytes" in options:  # replaces the share of the GPU's memory
            return AvailableMemory("gpu", total, cache=_count(options, "kv-cache-memory-bytes", 0), host=memory)
        share = _number(options, "gpu-memory-utilization", defaults.UTILIZATION)
        if not 0 < share <= 1:
            raise FitError(f"gpu-memory-utilization is {share}: give a fraction above 0 and up to 1")
        return AvailableMemory("gpu", int(total * share), host=memory)
    space = defaults.environment().get("VLLM_CPU_KVCACHE_SPACE", "")
    if space and not space.isdecimal():
        raise FitError(f"VLLM_CPU_KVCACHE_SPACE is {space!r}: give whole GiB")
    return AvailableMemory("cpu", memory, cache=int(space) * GIB if space else None)


def engine_settings(options: Mapping[str, Any], model_context: int) -> EngineSettings:
    """The settings in these engine options, as `engine.defaults.options` gives them. Raises FitError for a value that
    is not a number."""
    bits = DTYPES.get(str(options.get("dtype")), 16)
    length = options.get("max-model-len")
    return EngineSettings(
        context=model_context if length in (None, -1, "auto") else _count(options, "max-model-len", model_context),
        bits=bits,
        quantized=QUANTIZATIONS.get(str(options.get("quantization"))),
        cache_bits=_cache_bits(str(options.get("kv-cache-dtype", "auto")), bits),
        batched_tokens=_count(options, "max-num-batched-tokens", EngineSettings.batched_tokens),
        max_sequences=_count(options, "max-num-seqs", EngineSettings.max_sequences),
        lora_slots=_count(options, "max-loras", 1) if options.get("enable-lora") is True else 0,
        lora_rank=_count(options, "max-lora-rank", EngineSettings.lora_rank),
        offload=int(_number(options, "cpu-offload-gb", 0) * GIB),
        parallel=_count(options, "tensor-parallel-size", 1),
    )


def _cache_bits(name: str, computed: int) -> int:
    if name == "auto":
        return computed
    found = CACHE_DTYPES.match(name)
    return {"four": 4, "eight": 8}[str(found.lastgroup)] if found else 16


def _count(options: Mapping[str, Any], name: str, default: int) -> int:
    """A whole number from 1, also as vLLM writes it, such as 32k."""
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
