"""Does a model fit into this machine's memory? The answer needs only its config and the headers of its weights.

    weights + KV cache per token × context × sequences at once + LoRA slots + working memory  ≤  available memory

KV cache per token, in bytes, is `2 · layers · kv_heads · head_dim · bytes per value`: a key and a value for each head
of each layer (Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention",
§3). Three kinds of layer need less: one with a sliding window keeps only its window and the tokens in flight (as vLLM's
`SlidingWindowSpec` reserves it), one with multi-head latent attention keeps `kv_lora_rank + qk_rope_head_dim` values
(DeepSeek-AI 2024, "DeepSeek-V2", §2.1.3), and one with linear attention keeps no cache. Encoders keep none at all.

Weights are counted by their headers, so tied embeddings, experts and image encoders need no formula. The memory of the
process and its working memory are estimates. Not counted are the fixed state of linear attention, the memory that an
image encoder computes in, and LoRA on experts. What earlier loads took beyond their prediction (`Fit.resident`) is
added as a correction; it never reduces weights and cache, which are known.

All sizes are bytes. This module reads no database, no engine and no files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any, Literal

from vbs.pages.words import size

GIB = 2**30
BLOCK = 16  # tokens of a block of the cache
SHORTEST = 256  # tokens; a shorter context is of no use

# Bits of one stored value, by its name in safetensors; an unknown type counts as 16 bits.
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "U16": 16,
    "U32": 32, "U64": 64, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
FLOATS = {"F64", "F32", "F16", "BF16"}  # types that the engine converts to the dtype that it computes in

# Memory before any weights: the CUDA context and graphs; on a CPU, Python and its libraries in three processes, each
# with the tokenizer. The figures for a CPU were measured with SmolLM2, Gemma 3 and MiniLM on vLLM 0.32, and are right
# within 5 %; that for a GPU was measured on an H200.
PROCESS = {"gpu": int(1.6 * GIB), "cpu": int(1.4 * GIB)}
PER_WORD = {"gpu": 0, "cpu": 8 * 2**10}  # of the vocabulary

STEPS = 2  # that may be under way at once

# Values that configs leave to the defaults of their classes in transformers.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma2": {"sliding_window_pattern": 2, "tie_word_embeddings": True},
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
        "sliding_window_pattern": 6,
        "tie_word_embeddings": True,
    },
}


class FitError(ValueError):
    """The config or an option lacks a value; the message names it."""


@dataclass(frozen=True)
class Shape:
    """The values of a model's config that its memory depends on. context: the longest, in tokens."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: int
    vocabulary: int
    context: int
    windowed: int = 0  # layers with a sliding window
    window: int = 0  # tokens
    linear: int = 0  # layers without a cache
    latent: int = 0  # values per token and layer, with multi-head latent attention
    encoder: bool = False
    tied: bool = False  # one matrix is the embedding of tokens and the output layer
    quantized: bool = False  # stored so

    def cache(self, context: int, bits: int = 16, in_flight: int = 0, parallel: int = 1) -> int:
        """Bytes of KV cache for one sequence of this length, on each of `parallel` GPUs."""
        if self.encoder:
            return 0
        # GPUs share the heads, as far as there are enough of them, but each keeps the whole latent vector.
        values = self.latent or 2 * max(1, self.kv_heads // parallel) * self.head_dim
        full = self.layers - self.windowed - self.linear
        tokens = full * context + self.windowed * min(context, max(0, self.window - 1) + in_flight)
        return tokens * values * bits // 8


@dataclass(frozen=True)
class AvailableMemory:
    """The memory that an engine may use, on each GPU. total: in all. cache: what it sets aside for the KV cache, where
    that is fixed. host: main memory to which a GPU's weights can be offloaded."""

    kind: Literal["gpu", "cpu"]
    total: int
    cache: int | None = None
    host: int = 0


@dataclass(frozen=True)
class EngineSettings:
    """How the engine runs the model. sequences: at once, each of the full context."""

    context: int
    sequences: int = 1
    bits: int = 16  # of a value in computation, and of a weight that is not quantized
    quantized: float | None = None  # bits to which a weight of a linear layer is quantized while loading
    cache_bits: int = 16
    batched_tokens: int = 4096
    max_sequences: int = 128
    lora_slots: int = 0
    lora_rank: int = 16
    offload: int = 0  # bytes of weights kept outside each GPU
    parallel: int = 1  # GPUs that share the weights and the cache


@dataclass(frozen=True)
class Need:
    """The memory that the engine needs, in bytes, on each GPU when several share the model."""

    weights: int
    cache: int
    lora: int
    process: int  # before any weights
    working: int  # while it computes a step
    correction: int = 0  # what measured loads took beyond the prediction; negative when they took less

    @property
    def total(self) -> int:
        known = self.weights + self.cache
        return max(known, known + self.lora + self.process + self.working + self.correction)


class Verdict(StrEnum):
    FITS = "fits"
    SHORTER = "fits up to a shorter context"
    CHANGED = "fits with quantization or offload"
    DOES_NOT = "does not fit"


@dataclass(frozen=True)
class Fit:
    """Whether a model fits. need: with `context` and `change`. text: the result in a sentence."""

    verdict: Verdict
    need: Need
    asked: Need  # as it was asked for
    available: AvailableMemory
    context: int  # what fits, in tokens
    sequences: int  # how many of that context fit at once; 0 for encoders, which have no cache
    change: Mapping[str, Any]  # engine options that make it fit
    loads: int  # measured loads that the correction rests on
    text: str

    @property
    def resident(self) -> int | None:
        """Bytes that should be measured right after a load as asked, without correction.

        They are all but the working memory, which no request has needed yet. (vLLM 0.32 frees the memory of its trial
        step, and on a CPU it makes none as long as it compiles nothing and knows the size of its cache.) The cache
        counts in full although it is empty: vLLM fills it with zeros when it sets it aside, so its pages are in use on
        a CPU too. None where its size is not fixed: then the engine takes its whole share whatever the model is, and
        only the size that its log names makes a measurement meaningful (`resident_with`).
        """
        return (
            None if self.asked.cache and self.available.cache is None else self.resident_with(self.available.cache or 0)
        )

    def resident_with(self, cache: int) -> int:
        """The same when the engine has set aside this much for its cache."""
        return self.asked.weights + self.asked.lora + self.asked.process + (cache if self.asked.cache else 0)


def shape(config: Mapping[str, Any]) -> Shape:
    """The shape in a config.json. Raises FitError."""
    for part in ("text_config", "llm_config", "language_config"):
        if isinstance(inner := config.get(part), Mapping):
            config = {**config, **inner}
    given = {name: value for name, value in config.items() if value is not None}
    config = DEFAULTS.get(str(config.get("model_type")), {}) | given
    number = partial(_number, config)
    layers = number("num_hidden_layers", "n_layer", "num_layers", "n_layers")
    hidden = number("hidden_size", "n_embd", "d_model")
    heads = number("num_attention_heads", "n_head", "num_heads", "n_heads")
    window = number("sliding_window", default=0)
    types = config.get("layer_types")
    types = types[:layers] if isinstance(types, list) else None
    latent = number("kv_lora_rank", default=0)
    return Shape(
        layers=layers,
        heads=heads,
        kv_heads=number(
            *("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num"),
            default=1 if config.get("multi_query") is True else heads,
        ),
        head_dim=number("head_dim", default=hidden // heads),
        hidden=hidden,
        intermediate=number("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", default=4 * hidden),
        vocabulary=number("vocab_size"),
        context=number(
            *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length", "n_ctx"),
            default=2048,  # what vLLM assumes
        ),
        windowed=_windowed(config, layers, types) if window else 0,
        window=window,
        linear=types.count("linear_attention") if types else 0,
        latent=latent + number("qk_rope_head_dim", default=0) if latent else 0,
        encoder=_is_encoder(config),
        tied=config.get("tie_word_embeddings") is True,
        quantized="quantization_config" in config or "compression_config" in config,
    )


def _number(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    """The first of these values that is a positive number."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40:
            return value
    if default is None:
        raise FitError(f"the config has no {' or '.join(names)}: the memory of this model cannot be computed")
    return default


def _windowed(config: Mapping[str, Any], layers: int, types: list[Any] | None) -> int:
    """How many layers have a sliding window: those that are named so, or all but every n-th; without a pattern, all."""
    if types is not None:
        return types.count("sliding_attention")
    if config.get("use_sliding_window") is False:
        return 0
    if "use_sliding_window" in config:  # Qwen 2 has it in its upper layers
        return max(0, layers - _number(config, "max_window_layers", default=layers))
    pattern = _number(config, "sliding_window_pattern", "_sliding_window_pattern", default=0)
    return layers - layers // pattern if pattern else layers


def _is_encoder(config: Mapping[str, Any]) -> bool:
    if config.get("is_causal") is False:
        return True
    named = config.get("architectures")
    names = [str(name) for name in named] if isinstance(named, list) else []
    return bool(names) and all(
        ("bert" in name.lower() or name.startswith(("MPNet", "Electra")))
        and not name.endswith(("ForCausalLM", "LMHeadModel"))
        for name in names
    )


def need(
    model: Shape, parameters: Mapping[str, int], settings: EngineSettings, memory: AvailableMemory, correction: int = 0
) -> Need:
    """The memory that the engine needs. parameters: how many values of each safetensors type the weights have."""
    weights = max(0, _weights(model, parameters, settings) // settings.parallel - settings.offload)
    one = model.cache(settings.context, settings.cache_bits, STEPS * settings.batched_tokens, settings.parallel)
    cache = max(settings.sequences * one, memory.cache or 0) if one else 0
    # A LoRA pair of rank r is `r · (inputs + outputs)` values beside each of a layer's projections: q, k, v and o;
    # gate, up and down. GPUs do not share them: each keeps one side of every pair whole.
    attention = 4 * model.hidden + 2 * (model.heads + model.kv_heads) * model.head_dim
    sides = attention + 3 * (model.hidden + model.intermediate)
    lora = settings.lora_slots * settings.lora_rank * model.layers * sides * settings.bits // 8
    # One step needs the hidden states and the widest inner states of its tokens, and logits in 32 bits, each twice.
    step = settings.batched_tokens * 2 * (model.hidden + model.intermediate) * 4
    logits = 0 if model.encoder else 2 * settings.max_sequences * model.vocabulary * 4
    process = PROCESS[memory.kind] + PER_WORD[memory.kind] * model.vocabulary
    return Need(weights, cache, lora, process, (step + logits) // settings.parallel, correction)


def _weights(model: Shape, parameters: Mapping[str, int], settings: EngineSettings) -> int:
    floats = sum(count for kind, count in parameters.items() if kind in FLOATS)
    others = sum(count * BITS.get(kind, 16) for kind, count in parameters.items() if kind not in FLOATS)
    if settings.quantized is None:
        return (floats * settings.bits + others) // 8
    # Embeddings and the output layer are not quantized.
    kept = min(floats, model.vocabulary * model.hidden * (1 if model.tied else 2))
    return (kept * settings.bits + int((floats - kept) * settings.quantized) + others) // 8


def fit(
    model: Shape,
    parameters: Mapping[str, int],
    settings: EngineSettings,
    memory: AvailableMemory,
    correction: int = 0,
    loads: int = 0,
) -> Fit:
    """Whether the model fits as asked, or else up to which context, or else with which options changed.

    correction: bytes that `loads` measured loads took beyond `Fit.resident`.
    """

    def needed(settings: EngineSettings) -> Need:
        return need(model, parameters, settings, memory, correction)

    asked = needed(settings)
    source = f"; corrected by {loads} measured load{'s' * (loads != 1)}" if loads else ""
    if _fits(asked, memory):
        sequences = _sequences(model, settings, asked, memory)
        text = f"fits: {size(asked.total)} of {size(memory.total)}"
        if sequences:
            text += f", with memory for {sequences:,} × {settings.context:,} tokens at once"
        return Fit(Verdict.FITS, asked, asked, memory, settings.context, sequences, {}, loads, text + source)
    why = _why_not(asked, memory)
    for verdict, change, other in _ways(asked, model, settings, memory):
        if context := _longest(needed, other, memory):
            options = change | ({"max-model-len": context} if context < settings.context else {})
            other = replace(other, context=context)
            reduced = needed(other)
            sequences = _sequences(model, other, reduced, memory)
            how = "with " + ", ".join(f"{name} {value}" for name, value in options.items())
            how = how if change else f"up to a context of {context:,} tokens"
            text = f"fits {how}: {size(reduced.total)} of {size(memory.total)}; as asked, {why}"
            return Fit(verdict, reduced, asked, memory, context, sequences, options, loads, text + source)
    return Fit(Verdict.DOES_NOT, asked, asked, memory, 0, 0, {}, loads, f"does not fit: {why}{source}")


def error(measured: int, predicted: int) -> float:
    """The relative error of the prediction; positive when it was too high."""
    return (predicted - measured) / measured


def _fits(asked: Need, memory: AvailableMemory) -> bool:
    return asked.total <= memory.total and (memory.cache is None or asked.cache <= memory.cache)


def _why_not(asked: Need, memory: AvailableMemory) -> str:
    if asked.total > memory.total:
        return f"{size(asked.total)} needed ({size(asked.weights)} of it weights) and {size(memory.total)} available"
    setting = "VLLM_CPU_KVCACHE_SPACE" if memory.kind == "cpu" else "kv-cache-memory-bytes"
    return f"{size(asked.cache)} of KV cache needed and {size(memory.cache or 0)} set aside ({setting})"


def _sequences(model: Shape, settings: EngineSettings, asked: Need, memory: AvailableMemory) -> int:
    one = model.cache(settings.context, settings.cache_bits, STEPS * settings.batched_tokens, settings.parallel)
    free = memory.total - (asked.total - asked.cache) if memory.cache is None else memory.cache
    return free // one if one else 0


def _longest(needed: Callable[[EngineSettings], Need], settings: EngineSettings, memory: AvailableMemory) -> int:
    """The longest context that fits, at most the one asked for, in whole blocks; 0 when it is too short to use."""

    def goes(context: int) -> bool:
        return _fits(needed(replace(settings, context=context)), memory)

    if goes(settings.context):
        return settings.context
    low, high = 0, settings.context // BLOCK
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if goes(BLOCK * middle) else (low, middle - 1)
    return BLOCK * low if BLOCK * low >= SHORTEST else 0


def _ways(
    asked: Need, model: Shape, settings: EngineSettings, memory: AvailableMemory
) -> list[tuple[Verdict, dict[str, Any], EngineSettings]]:
    """What to try, the least loss of quality and speed first: a shorter context alone, or also changed options."""
    ways: list[tuple[Verdict, dict[str, Any], EngineSettings]] = [(Verdict.SHORTER, {}, settings)]
    if settings.bits > 16:
        shorter = replace(settings, bits=16, cache_bits=min(settings.cache_bits, 16))
        ways.append((Verdict.CHANGED, {"dtype": "bfloat16"}, shorter))
    if memory.kind == "gpu" and settings.quantized is None and not model.quantized:
        ways.append((Verdict.CHANGED, {"quantization": "fp8_per_tensor"}, replace(settings, quantized=8.0)))
    gib = -(-(asked.total - memory.total) // GIB)
    if memory.kind == "gpu" and 0 < gib * GIB < asked.weights and gib * GIB * settings.parallel <= memory.host:
        offload = settings.offload + gib * GIB
        ways.append((Verdict.CHANGED, {"cpu-offload-gb": offload / GIB}, replace(settings, offload=offload)))
    return ways
