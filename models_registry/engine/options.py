"""Which options of vLLM a model may set, with which values. `check` reads them, whoever has written them.

What reaches the network, files outside the model's folder, or code is not among them: whoever may add a model must not
thereby run programs on this machine. Says nothing of what a model or a machine can take: vLLM does, when it starts.
The names, choices and bounds are those of vLLM 0.32 (engine/arg_utils.py, config/, entrypoints/launchers/cli_args.py).
"""

import difflib
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

MOST_TEXT = 100_000  # bytes of one value; Linux takes 128 KiB as one argument of a process
_NAME = re.compile(r"[a-z][a-z0-9-]*")
_LENGTH = re.compile(r"(-?[0-9]{1,15}(?:\.[0-9]{1,6})?)([kKmMgGtT]?)")
_POWERS = {letter: power for power, letter in enumerate("kmgt", 1)}
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MOST_INT = 2**31 - 1


class OptionError(Exception):
    """An option that a model may not set, or not to this value: which, why, and what would be right."""


LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class Kind(StrEnum):
    SWITCH = "switch"  # on as `name`, off as `no-name`
    WHOLE = "whole number"
    NUMBER = "number"
    CHOICE = "choice"
    WORD = "text"  # letters, digits and . _ -
    TEMPLATE = "template"
    OBJECT = "JSON object"


@dataclass(frozen=True)
class Option:
    """least, most: bounds of a number, both allowed; its choices are allowed besides.

    keys: what an object may hold, anything where empty.
    """

    name: str
    kind: Kind
    help: str
    choices: tuple[str | int, ...] = ()
    least: float = 0
    most: float = 0
    keys: frozenset[str] = frozenset()

    @property
    def rule(self) -> str:
        """What the value must be, to go after "give"."""
        match self.kind:
            case Kind.SWITCH:
                return "true or false"
            case Kind.WHOLE | Kind.NUMBER:
                besides = "".join(f" or {choice}" for choice in self.choices)
                return f"a {self.kind} from {self.least:.12g} to {self.most:.17g}{besides}"
            case Kind.CHOICE:
                return f"one of {', '.join(map(str, self.choices))}"
            case Kind.WORD:
                return "a name of letters, digits and . _ -"
            case Kind.TEMPLATE:
                return (
                    "the template's text (with {{ or {%); a file belongs into the model's folder as chat_template.jinja"
                )
        return f"a JSON object with {', '.join(sorted(self.keys))}" if self.keys else "a JSON object"


def _switch(name: str, help: str) -> Option:
    return Option(name, Kind.SWITCH, help)


def _whole(name: str, help: str, least: int = 1, most: int = _MOST_INT, *or_else: int) -> Option:
    return Option(name, Kind.WHOLE, help, or_else, least, most)


def _number(name: str, help: str, least: float, most: float) -> Option:
    return Option(name, Kind.NUMBER, help, least=least, most=most)


def _choice(name: str, help: str, words: str) -> Option:
    return Option(name, Kind.CHOICE, help, choices=tuple(words.split()))


def _level(name: str, help: str, *levels: int) -> Option:
    return Option(name, Kind.CHOICE, help, choices=levels)


def _word(name: str, help: str) -> Option:
    return Option(name, Kind.WORD, help)


def _object(name: str, help: str, keys: str = "") -> Option:
    return Option(name, Kind.OBJECT, help, keys=frozenset(keys.split()))


_ALL = (
    # The model and its numbers
    _choice("dtype", "Type of the weights and activations", "auto half float16 bfloat16 float float32"),
    _choice(
        "quantization",
        "How the weights are quantized, where the model does not say it",
        "awq auto_awq fp8 fbgemm_fp8 fp_quant modelopt modelopt_fp4 modelopt_mxfp8 modelopt_mixed auto_gptq gptq "
        "gptq_marlin awq_marlin humming compressed-tensors experts_int8 quark moe_wna16 torchao inc mxfp4 "
        "gpt_oss_mxfp4 deepseek_v4_fp8 online fp8_per_tensor fp8_per_block fp8_per_channel "
        "int8_per_channel_weight_only nvfp4_per_token mxfp8",
    ),
    _whole(
        "max-model-len",
        "Most tokens of a request with its answer; 8k is 8000, 8K is 8192, -1 what fits",
        1,
        _MOST_INT,
        -1,
    ),
    _whole("seed", "Seed of the random numbers", 0, 2**32 - 1),
    _object(
        "hf-overrides",
        "Entries of config.json to replace",
        "architectures max_position_embeddings rope_parameters rope_scaling rope_theta sliding_window is_matryoshka "
        "matryoshka_dimensions num_labels id2label problem_type classifier_from_token method num_experts_per_tok",
    ),
    _choice("tokenizer-mode", "Which tokenizer is used", "auto hf mistral deepseek_v32 deepseek_v4 cohere"),
    _choice("config-format", "Which configuration file is read", "auto hf mistral"),
    _choice(
        "load-format",
        "How the weights are read. Formats that fetch them from elsewhere are not among these",
        "auto hf safetensors pt mistral sharded_state fastsafetensors dummy",
    ),
    _choice("safetensors-load-strategy", "How safetensors files are read", "lazy eager prefetch torchao"),
    _choice("model-impl", "Whose code computes the model", "auto vllm transformers"),
    _choice("runner", "What the model is for: text or vectors", "auto generate pooling"),
    _choice("convert", "Make an embedding or classification model of it", "auto none embed classify"),
    _object(
        "pooler-config",
        "How the vectors are made",
        "task pooling_type seq_pooling_type tok_pooling_type use_activation dimensions enable_chunked_processing "
        "max_embed_len logit_mean logit_sigma step_tag_id returned_token_ids",
    ),
    _whole("max-logprobs", "Most log probabilities that a request may ask for; -1 for all", 0, _MOST_INT, -1),
    _choice(
        "logprobs-mode",
        "Which log probabilities are given",
        "raw_logits raw_logprobs processed_logits processed_logprobs",
    ),
    _switch("disable-sliding-window", "Attend to all tokens where the model has a sliding window"),
    # Memory
    _number("gpu-memory-utilization", "Share of the GPU's memory that the engine takes", 0.01, 1),
    _number("cpu-offload-gb", "GiB of weights to keep in main memory, for each GPU", 0, 100_000),
    _number("kv-offloading-size", "GiB of main memory for the KV cache", 0, 100_000),
    _whole("kv-cache-memory-bytes", "Bytes of KV cache on each GPU, instead of a share of its memory", 1, 2**50),
    _choice(
        "kv-cache-dtype",
        "Type of the KV cache",
        "auto float16 bfloat16 fp8 fp8_e4m3 fp8_e5m2 fp8_inc fp8_ds_mla nvfp4 int8_per_token_head "
        "int4_per_token_head fp8_per_token_head",
    ),
    _whole("block-size", "Tokens of a block of the KV cache", 1, 65536),
    _whole("num-gpu-blocks-override", "Blocks of KV cache, instead of as many as fit"),
    _choice("mamba-cache-dtype", "Type of the Mamba cache", "auto float32 float16 bfloat16"),
    _choice("mamba-ssm-cache-dtype", "Type of the Mamba state", "auto float32 float16 bfloat16"),
    _switch("enable-prefix-caching", "Keep the KV cache of prompts' beginnings; on where nothing is said"),
    _switch("enable-sleep-mode", "Let the engine give its memory back while it waits"),
    # Several GPUs
    _whole("tensor-parallel-size", "GPUs that share each layer", 1, 1024),
    _whole("pipeline-parallel-size", "GPUs that share the layers one after the other", 1, 1024),
    _whole("data-parallel-size", "Copies of the model on this machine", 1, 1024),
    _whole("decode-context-parallel-size", "GPUs that share a request's context", 1, 1024),
    _switch("enable-expert-parallel", "Spread whole experts over the GPUs"),
    _switch("disable-custom-all-reduce", "Use NCCL where vLLM's own reduction fails"),
    _choice("distributed-executor-backend", "How the GPUs' processes are run on this machine", "mp uni"),
    # Scheduling and speed
    _whole("max-num-seqs", "Most requests that run at once"),
    _whole("max-cudagraph-capture-size", "Most tokens of a step that runs as a CUDA graph"),
    _whole("api-server-count", "Processes that read requests and write answers; one where adapters or sleep", 1, 16),
    _whole("max-num-batched-tokens", "Most tokens of one step"),
    _switch("enable-chunked-prefill", "Read long prompts in parts; on where nothing is said"),
    _switch("async-scheduling", "Plan the next step while one runs"),
    _choice("scheduling-policy", "Which request comes first", "fcfs priority"),
    _switch("enforce-eager", "Start fast, without CUDA graphs and compilation"),
    _level("optimization-level", "0 starts fastest, 3 runs fastest", 0, 1, 2, 3),
    _choice("performance-mode", "What to be fast at", "balanced interactivity throughput"),
    _object(
        "compilation-config",
        "How the model is compiled",
        "mode cudagraph_mode cudagraph_capture_sizes max_cudagraph_capture_size compile_sizes "
        "compile_ranges_endpoints custom_ops splitting_ops pass_config use_inductor_graph_partition "
        "compile_mm_encoder cudagraph_num_of_warmups cudagraph_copy_inputs cudagraph_specialize_lora",
    ),
    _choice(
        "attention-backend",
        "Whose code computes attention",
        "FLASH_ATTN TRITON_ATTN FLASHINFER FLEX_ATTENTION TORCH_SDPA CPU_ATTN ROCM_ATTN ROCM_AITER_FA "
        "ROCM_AITER_UNIFIED_ATTN ROCM_AITER_MLA FLASHINFER_MLA TRITON_MLA CUTLASS_MLA FLASHMLA FLASHMLA_SPARSE "
        "FLASH_ATTN_MLA CPU_MLA",
    ),
    _word("moe-backend", "Whose code computes experts"),
    _object(
        "speculative-config",
        "Guess tokens ahead, by the prompt or by the model itself; another model cannot be named",
        "method num_speculative_tokens prompt_lookup_max prompt_lookup_min suffix_decoding_max_tree_depth "
        "suffix_decoding_max_cached_requests suffix_decoding_max_spec_factor suffix_decoding_min_token_prob",
    ),
    # LoRA adapters
    _switch("enable-lora", "Serve LoRA adapters"),
    _whole("max-loras", "Adapters in one step", 1, 1024),
    _level("max-lora-rank", "Largest rank of an adapter", *LORA_RANKS),
    _whole("max-cpu-loras", "Adapters kept in main memory", 1, 65536),
    _choice("lora-dtype", "Type of the adapters", "auto float16 bfloat16"),
    _switch("fully-sharded-loras", "Share adapters' layers over the GPUs"),
    # Chats
    Option("chat-template", Kind.TEMPLATE, "Jinja text that makes one prompt of the messages"),
    _choice("chat-template-content-format", "How a template sees contents", "auto string openai"),
    _object("default-chat-template-kwargs", 'What every template is given, e.g. {"enable_thinking": false}'),
    _word("reasoning-parser", "Which marks of thinking are taken out of answers, e.g. qwen3"),
    _word("tool-call-parser", "Which marks of tool calls are read, e.g. hermes"),
    _switch("enable-auto-tool-choice", "Let the model decide whether it calls a tool"),
    _switch("exclude-tools-when-tool-choice-none", "Leave tools out of prompts that must not call them"),
    _choice("generation-config", "Where sampling defaults come from: the model's file or vLLM", "auto vllm"),
    _object(
        "override-generation-config",
        "Sampling defaults to replace",
        "temperature top_p top_k min_p repetition_penalty max_new_tokens",
    ),
    _object(
        "structured-outputs-config",
        "How answers are held to a schema",
        "backend disable_any_whitespace disable_additional_properties enable_in_reasoning",
    ),
    # Pictures, sound
    _object("limit-mm-per-prompt", "Most pictures, videos or sounds of a request", "image video audio"),
    _object(
        "mm-processor-kwargs",
        "How pictures and videos are prepared",
        "min_pixels max_pixels size fps num_frames num_crops min_dynamic_patch max_dynamic_patch do_resize "
        "do_pan_and_scan",
    ),
    _number("mm-processor-cache-gb", "GiB of main memory for prepared pictures", 0, 100_000),
    _choice("mm-encoder-tp-mode", "What the GPUs share of the encoder: weights or pictures", "weights data"),
    _switch("language-model-only", "Leave the encoders of pictures and sound out"),
    _switch("skip-mm-profiling", "Do not measure the memory of the encoders at the start"),
)
OPTIONS = {option.name: option for option in _ALL}

# What belongs to the server that vbs starts, not to the model.
_OURS = (
    "model model-tag served-model-name uds host port grpc-port api-key root-path headless "
    "ssl-keyfile ssl-certfile ssl-ca-certs ssl-cert-reqs ssl-ciphers enable-ssl-refresh uvicorn-log-level "
    "disable-uvicorn-access-log disable-access-log-for-endpoints disable-log-stats disable-log-requests "
    "enable-log-requests enable-log-outputs max-log-len log-level allow-credentials allowed-origins allowed-methods "
    "allowed-headers enable-request-id-headers disable-fastapi-docs enable-offline-docs h11-max-header-count "
    "h11-max-incomplete-event-size enable-server-load-tracking enable-prompt-tokens-details "
    "enable-force-include-usage shutdown-timeout use-tqdm-on-load"
)
OURS = frozenset(_OURS.split())
_WHY = {
    "is set by this server: leave it out": _OURS,
    "cannot be set: code that comes with a model runs only where the model's own field trust_remote_code says so": (
        "trust-remote-code"
    ),
    "runs code that is not vLLM's: leave it out": "tool-parser-plugin reasoning-parser-plugin middleware "
    "logits-processors io-processor-plugin worker-cls worker-extension-cls scheduler-cls model-class-overrides "
    "additional-config kernel-config profiler-config",
    "reaches files outside the model's folder: leave it out, and put what it needs into that folder": "tokenizer "
    "hf-config-path download-dir allowed-local-media-path lora-modules default-mm-loras config log-config-file "
    "logging-config mm-encoder-fp8-scale-path mm-encoder-fp8-scale-save-path model-loader-extra-config spec-model",
    "reaches the network: leave it out": "hf-token allowed-media-domains otlp-traces-endpoint tool-server "
    "kv-transfer-config kv-events-config ec-transfer-config weight-transfer-config master-addr master-port nnodes "
    "node-rank data-parallel-address data-parallel-rpc-port data-parallel-rank data-parallel-start-rank "
    "data-parallel-size-local data-parallel-backend data-parallel-hybrid-lb data-parallel-external-lb",
    "is for a hub, and the engine reads a folder: leave it out": "revision code-revision tokenizer-revision",
    'is gone from vLLM: use hf-overrides, e.g. {"rope_parameters": {…}}': "rope-scaling rope-theta",
    "is gone from vLLM: leave it out, or use kv-offloading-size": "swap-space",
    "is gone from vLLM: use runner and convert": "task",
}
REFUSED = {name: why for why, names in _WHY.items() for name in names.split()}


def check(options: dict[str, Any]) -> dict[str, Any]:
    """The options by their names with dashes, each value of its kind. Raises OptionError for the first that is wrong.

    A switch that is off comes back as `no-…`, since the engine is given no false values.
    """
    checked: dict[str, Any] = {}
    for given, value in options.items():
        name = str(given).replace("_", "-")
        option = _find(name)
        read = _read(option, value)
        if option.kind is Kind.SWITCH:
            name = option.name if read is (name == option.name) else f"no-{option.name}"
            read = True
        if not checked.keys().isdisjoint({option.name, f"no-{option.name}"}):
            raise OptionError(f"the engine option {option.name} is given twice: leave one out")
        checked[name] = read
    return checked


def _find(name: str) -> Option:
    if option := OPTIONS.get(name):
        return option
    if (option := OPTIONS.get(name.removeprefix("no-"))) and option.kind is Kind.SWITCH:
        return option
    if why := REFUSED.get(name) or REFUSED.get(name.removeprefix("no-")):
        raise OptionError(f"the engine option {name} {why}")
    if not _NAME.fullmatch(name):
        raise OptionError(f"{_short(name)} cannot be an engine option: give its long name, without dashes before it")
    near = difflib.get_close_matches(name[:64], [*OPTIONS, *REFUSED], n=1, cutoff=0.75)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(OPTIONS)}"
    raise OptionError(f"there is no engine option {_short(name)} that a model may set: {hint}")


def _read(option: Option, value: Any) -> Any:
    try:
        match option.kind:
            case Kind.SWITCH:
                return _switched(value)
            case Kind.WHOLE | Kind.NUMBER:
                return _counted(option, value)
            case Kind.CHOICE:
                return next(choice for choice in option.choices if str(choice).lower() == str(value).strip().lower())
            case Kind.OBJECT:
                return _structured(option, value)
        return _written(option, value)
    except (ValueError, TypeError, LookupError, StopIteration, RecursionError):
        raise OptionError(
            f"the engine option {option.name} cannot be {_short(value)}: give {option.rule}. {option.help}"
        ) from None


def _switched(value: Any) -> bool:
    return {"true": True, "false": False}[str(value).strip().lower()]


def _counted(option: Option, value: Any) -> int | float:
    """A number, or a text that vLLM takes for one: "2048", "8k" (8000), "8K" (8192), "auto" for -1."""
    number = value
    if isinstance(value, str):
        text = value.strip()
        if text.lower() == "auto" and -1 in option.choices:
            return -1
        number = _length(text) if option.kind is Kind.WHOLE else float(text)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError
    if number not in option.choices and not option.least <= number <= option.most:
        raise ValueError
    if option.kind is Kind.WHOLE:
        if number != int(number):
            raise ValueError
        return int(number)
    return number


def _length(text: str) -> int | float:
    if not (match := _LENGTH.fullmatch(text)):
        raise ValueError
    digits, letter = match.groups()
    if not letter:
        return int(digits)
    if letter.isupper():
        return int(digits) * 1024 ** _POWERS[letter.lower()]
    return int(float(digits) * 1000 ** _POWERS[letter])


def _structured(option: Option, value: Any) -> dict[str, Any]:
    content = json.loads(value) if isinstance(value, str) else value
    if not isinstance(content, dict) or (option.keys and not content.keys() <= option.keys):
        raise ValueError
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    if len(text.encode()) > MOST_TEXT or "\\u0000" in text:  # the database takes no NUL
        raise ValueError
    return dict(json.loads(text))


def _written(option: Option, value: Any) -> str:
    if not isinstance(value, str) or "\0" in value or len(value.encode()) > MOST_TEXT:
        raise ValueError
    if option.kind is Kind.WORD and not _WORD.fullmatch(value):
        raise ValueError
    if option.kind is Kind.TEMPLATE and "{{" not in value and "{%" not in value:
        raise ValueError  # vLLM would take it for the path of a file
    return value


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except RecursionError:
        text = "that"
    return text if len(text) <= 60 else f"{text[:60]}…"
