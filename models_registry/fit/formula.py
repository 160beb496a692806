"""Does a model fit into this machine's memory? Said from its config and the headers of its weights alone.

    weights + KV cache per token × context × sequences at once + LoRA slots + working memory  ≤  room

KV cache per token, in bytes, is `2 · layers · kv_heads · head_dim · bytes per value`: a key and a value for each head
of each layer (Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention",
§3). Three kinds of layer need less: one with a sliding window keeps only its window and the tokens in flight (as vLLM's
`SlidingWindowSpec` reserves it), one with multi-head latent attention keeps `kv_lora_rank + qk_rope_head_dim` values
(DeepSeek-AI 2024, "DeepSeek-V2", §2.1.3), and one with linear attention keeps no cache. Encoders keep none at all.

Weights are what the headers count, so tied embeddings, experts and image encoders need no formula. What the process
takes and its working memory are estimates. Not counted: the fixed state of linear attention, what an image encoder
computes, LoRA on experts. What earlier loads took beyond what was said of them (`Fit.resident`) is added as a
correction, which never takes away from weights and cache: those are known.

All sizes are bytes. Pure: knows no database, no engine and no files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any, Literal

from vbs.pages.words import size

GIB = 2**30
BLOCK = 16  # tokens of a block of the cache
SHORTEST = 256  # tokens; a context below this is no use

# Bits of one stored value, by the names that safetensors has for them; of unknown ones 16.
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "U16": 16,
    "U32": 32, "U64": 64, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
FLOATS = {"F64", "F32", "F16", "BF16"}  # what the engine converts to the dtype that it computes in

# Before it loads anything: the CUDA context and graphs; on a CPU, Python and its libraries in three processes, and in
# each of them the tokenizer. The figures for a CPU are those of SmolLM2, Gemma 3 and MiniLM on vLLM 0.32, within 5 %;
# that for a GPU was measured on an H200.
PROCESS = {"gpu": int(1.6 * GIB), "cpu": int(1.4 * GIB)}
PER_WORD = {"gpu": 0, "cpu": 8 * 2**10}  # of the vocabulary

STEPS = 2  # that may be under way at once

# What configs leave to the defaults of their classes in transformers, and we need.
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
    """The config or an option does not say what is needed; the message names it."""


@dataclass(frozen=True)
class Shape:
    """What of a model's config its memory depends on. context: the longest it was made for, in tokens."""

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
        """Bytes of KV cache, on each of `parallel` GPUs, of one sequence of this length."""
        if self.encoder:
            return 0
        # GPUs share the heads, as far as there are enough, but each keeps all of a latent vector.
        values = self.latent or 2 * max(1, self.kv_heads // parallel) * self.head_dim
        full = self.layers - self.windowed - self.linear
        tokens = full * context + self.windowed * min(context, max(0, self.window - 1) + in_flight)
        return tokens * values * bits // 8


@dataclass(frozen=True)
class Room:
    """total: what the engine may take in all, on each GPU. cache: what it sets aside for the KV cache where that is
    fixed. host: main memory that can take weights of a GPU."""

    kind: Literal["gpu", "cpu"]
    total: int
    cache: int | None = None
    host: int = 0


@dataclass(frozen=True)
class Load:
    """How the model is to be run. sequences: at once, each of the full context."""

    context: int
    sequences: int = 1
    bits: int = 16  # of a value in computation, and of a weight that is not quantized
    quantized: float | None = None  # bits that a weight of a linear layer is quantized to while loading
    cache_bits: int = 16
    batched_tokens: int = 4096
    max_sequences: int = 128
    lora_slots: int = 0
    lora_rank: int = 16
    offload: int = 0  # bytes of weights kept outside each GPU
    parallel: int = 1  # GPUs that share the weights and the cache


@dataclass(frozen=True)
class Need:
    """Bytes, on each GPU when several share the model."""

    weights: int
    cache: int
    lora: int
    process: int  # before it loads anything
    working: int  # while it computes a step
    correction: int = 0  # what loads were measured to take beyond all that; below 0 when less

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
    """need: with the context and the change that are given here. text: all of it in a sentence."""

    verdict: Verdict
    need: Need
    asked: Need  # without them
    room: Room
    context: int  # what fits, in tokens
    sequences: int  # of that context at once, as far as the memory goes; 0 for encoders, which keep nothing of them
    change: Mapping[str, Any]  # engine options that make it fit
    loads: int  # that were measured, behind the correction
    text: str

    @property
    def resident(self) -> int | None:
        """Bytes that should be measured right after a load as asked, uncorrected: what measurements are compared with.

        All but the working memory, which no request has needed yet. (vLLM 0.32 gives back what it takes to try out a
        step, and on a CPU it tries none as long as it compiles nothing and is told the size of its cache.) The cache
        counts as a whole although it is empty: vLLM fills it with zeros when it sets it aside, so its pages are taken
        on a CPU too. None where that size is not fixed: there the engine takes all of its share whatever the model
        is, and only what it says of its cache makes a measurement tell something (`resident_with`).
        """
        return None if self.asked.cache and self.room.cache is None else self.resident_with(self.room.cache or 0)

    def resident_with(self, cache: int) -> int:
        """The same where the engine says that it has set aside this much for its cache."""
        return self.asked.weights + self.asked.lora + self.asked.process + (cache if self.asked.cache else 0)


def shape(config: Mapping[str, Any]) -> Shape:
    """From a config.json. Raises FitError."""
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
    """The first of these that is a positive number."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40:
            return value
    if default is None:
        raise FitError(f"the config has no {' or '.join(names)}: what this model takes cannot be said")
    return default


def _windowed(config: Mapping[str, Any], layers: int, types: list[Any] | None) -> int:
    """Layers with a sliding window: those named so, or all but every n-th, or, without a pattern, all."""
    if types is not None:
        return types.count("sliding_attention")
    if config.get("use_sliding_window") is False:
        return 0
    if "use_sliding_window" in config:  # Qwen 2: in its upper layers
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


def need(model: Shape, parameters: Mapping[str, int], load: Load, room: Room, correction: int = 0) -> Need:
    """What the engine takes. parameters: how many values of each safetensors type the weights have."""
    weights = max(0, _weights(model, parameters, load) // load.parallel - load.offload)
    one = model.cache(load.context, load.cache_bits, STEPS * load.batched_tokens, load.parallel)
    cache = max(load.sequences * one, room.cache or 0) if one else 0
    # A LoRA pair of rank r is `r · (inputs + outputs)` values beside each of a layer's projections: q, k, v and o;
    # gate, up and down. Not shared out: each GPU keeps one side of every pair whole.
    attention = 4 * model.hidden + 2 * (model.heads + model.kv_heads) * model.head_dim
    sides = attention + 3 * (model.hidden + model.intermediate)
    lora = load.lora_slots * load.lora_rank * model.layers * sides * load.bits // 8
    # One step: the hidden states and the widest inner ones of its tokens, and logits in 32 bits, each of them twice.
    step = load.batched_tokens * 2 * (model.hidden + model.intermediate) * 4
    logits = 0 if model.encoder else 2 * load.max_sequences * model.vocabulary * 4
    process = PROCESS[room.kind] + PER_WORD[room.kind] * model.vocabulary
    return Need(weights, cache, lora, process, (step + logits) // load.parallel, correction)


def _weights(model: Shape, parameters: Mapping[str, int], load: Load) -> int:
    floats = sum(count for kind, count in parameters.items() if kind in FLOATS)
    others = sum(count * BITS.get(kind, 16) for kind, count in parameters.items() if kind not in FLOATS)
    if load.quantized is None:
        return (floats * load.bits + others) // 8
    # Embeddings and the output layer stay as they are.
    kept = min(floats, model.vocabulary * model.hidden * (1 if model.tied else 2))
    return (kept * load.bits + int((floats - kept) * load.quantized) + others) // 8


def fit(
    model: Shape, parameters: Mapping[str, int], load: Load, room: Room, correction: int = 0, loads: int = 0
) -> Fit:
    """Whether it fits as asked, else up to which context, else with what changed.

    correction: bytes that `loads` measured loads took beyond `Fit.resident`.
    """

    def needed(load: Load) -> Need:
        return need(model, parameters, load, room, correction)

    asked = needed(load)
    source = f"; corrected by {loads} measured load{'s' * (loads != 1)}" if loads else ""
    if _fits(asked, room):
        sequences = _sequences(model, load, asked, room)
        text = f"fits: {size(asked.total)} of {size(room.total)}"
        if sequences:
            text += f", with room for {sequences:,} × {load.context:,} tokens at once"
        return Fit(Verdict.FITS, asked, asked, room, load.context, sequences, {}, loads, text + source)
    why = _why_not(asked, room)
    for verdict, change, other in _ways(asked, model, load, room):
        if context := _longest(needed, other, room):
            options = change | ({"max-model-len": context} if context < load.context else {})
            other = replace(other, context=context)
            less = needed(other)
            sequences = _sequences(model, other, less, room)
            how = "with " + ", ".join(f"{name} {value}" for name, value in options.items())
            how = how if change else f"up to a context of {context:,} tokens"
            text = f"fits {how}: {size(less.total)} of {size(room.total)}; as asked, {why}"
            return Fit(verdict, less, asked, room, context, sequences, options, loads, text + source)
    return Fit(Verdict.DOES_NOT, asked, asked, room, 0, 0, {}, loads, f"does not fit: {why}{source}")


def error(measured: int, predicted: int) -> float:
    """By which part of what was measured the prediction was off; above 0 when it was too much."""
    return (predicted - measured) / measured


def _fits(asked: Need, room: Room) -> bool:
    return asked.total <= room.total and (room.cache is None or asked.cache <= room.cache)


def _why_not(asked: Need, room: Room) -> str:
    if asked.total > room.total:
        return f"{size(asked.total)} needed ({size(asked.weights)} of it weights) and {size(room.total)} there"
    setting = "VLLM_CPU_KVCACHE_SPACE" if room.kind == "cpu" else "kv-cache-memory-bytes"
    return f"{size(asked.cache)} of KV cache needed and {size(room.cache or 0)} set aside ({setting})"


def _sequences(model: Shape, load: Load, asked: Need, room: Room) -> int:
    one = model.cache(load.context, load.cache_bits, STEPS * load.batched_tokens, load.parallel)
    free = room.total - (asked.total - asked.cache) if room.cache is None else room.cache
    return free // one if one else 0


def _longest(needed: Callable[[Load], Need], load: Load, room: Room) -> int:
    """The longest context up to the one asked for, else in whole blocks, that fits; 0 if that is too short."""

    def goes(context: int) -> bool:
        return _fits(needed(replace(load, context=context)), room)

    if goes(load.context):
        return load.context
    low, high = 0, load.context // BLOCK
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if goes(BLOCK * middle) else (low, middle - 1)
    return BLOCK * low if BLOCK * low >= SHORTEST else 0


def _ways(asked: Need, model: Shape, load: Load, room: Room) -> list[tuple[Verdict, dict[str, Any], Load]]:
    """What can be given up, the least loss of quality and speed first. No change, or options of the engine."""
    ways: list[tuple[Verdict, dict[str, Any], Load]] = [(Verdict.SHORTER, {}, load)]
    if load.bits > 16:
        shorter = replace(load, bits=16, cache_bits=min(load.cache_bits, 16))
        ways.append((Verdict.CHANGED, {"dtype": "bfloat16"}, shorter))
    if room.kind == "gpu" and load.quantized is None and not model.quantized:
        ways.append((Verdict.CHANGED, {"quantization": "fp8_per_tensor"}, replace(load, quantized=8.0)))
    gib = -(-(asked.total - room.total) // GIB)
    if room.kind == "gpu" and 0 < gib * GIB < asked.weights and gib * GIB * load.parallel <= room.host:
        offload = load.offload + gib * GIB
        ways.append((Verdict.CHANGED, {"cpu-offload-gb": offload / GIB}, replace(load, offload=offload)))
    return ways
