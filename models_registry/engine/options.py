"""The options of vLLM that a model may set. `check` reads them.

Options that reach the network, files outside the model's folder, or code are not among them: somebody who adds a model
must not be able to run programs on this machine. The installed vLLM says which values the other options take
(engine/machine/installed.py), and vLLM refuses at its start what a model or a machine cannot do. The names are those of
vLLM 0.32.
"""

import difflib
import json
import operator
import re
from enum import StrEnum
from typing import Any

from models_registry.engine.machine import installed
from models_registry.engine.machine.installed import Form

MOST_TEXT = 100_000  # bytes of one value; Linux takes 128 KiB as one argument of a process
MOST_NUMBER = 2**53
_NAME = re.compile(r"[a-z][a-z0-9-]*")
_NUMBER = re.compile(r"(-?[0-9]{1,15}(?:\.[0-9]{1,12})?)([kKmMgGtT]?)")
_POWERS = {letter: power for power, letter in enumerate("kmgt", 1)}
_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")  # neither a path nor a module's name
_HOLDS = {"gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le}


class OptionError(Exception):
    """A model may not have this option, or not this value. The message says why, and what would be right."""


LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class Kind(StrEnum):
    SWITCH = "true or false"  # on as `name`, off as `no-name`
    NUMBER = "a number"
    WORD = "a name of letters, digits, _ and -"
    TEMPLATE = "the template's text (with {{ or {%); a file belongs into the model's folder as chat_template.jinja"
    OBJECT = "a JSON object"


_ALLOWED = {
    Kind.SWITCH: "disable-sliding-window enable-prefix-caching enable-sleep-mode enable-expert-parallel "
    "disable-custom-all-reduce enable-chunked-prefill async-scheduling enforce-eager enable-lora fully-sharded-loras "
    "enable-auto-tool-choice exclude-tools-when-tool-choice-none language-model-only skip-mm-profiling",
    Kind.NUMBER: "max-model-len seed max-logprobs gpu-memory-utilization cpu-offload-gb kv-offloading-size "
    "kv-cache-memory-bytes block-size num-gpu-blocks-override tensor-parallel-size pipeline-parallel-size "
    "data-parallel-size decode-context-parallel-size max-num-seqs max-cudagraph-capture-size api-server-count "
    "max-num-batched-tokens optimization-level max-loras max-lora-rank max-cpu-loras mm-processor-cache-gb",
    Kind.WORD: "dtype quantization tokenizer-mode config-format load-format safetensors-load-strategy model-impl "
    "runner convert logprobs-mode kv-cache-dtype mamba-cache-dtype mamba-ssm-cache-dtype distributed-executor-backend "
    "scheduling-policy performance-mode attention-backend moe-backend lora-dtype chat-template-content-format "
    "reasoning-parser tool-call-parser generation-config mm-encoder-tp-mode",
    Kind.TEMPLATE: "chat-template",
    Kind.OBJECT: "hf-overrides pooler-config compilation-config speculative-config default-chat-template-kwargs "
    "override-generation-config structured-outputs-config limit-mm-per-prompt mm-processor-kwargs",
}
OPTIONS = {name: kind for kind, names in _ALLOWED.items() for name in names.split()}

# Of what else vLLM takes here, some reaches files, code or the network: a folder, a class, a plug-in, another model.
SAFE_CHOICES = {
    "load-format": ["auto", "hf", "safetensors", "pt", "mistral", "sharded_state", "fastsafetensors", "dummy"],
    "generation-config": ["auto", "vllm"],
    "distributed-executor-backend": ["mp", "uni"],
}
_SAFE_KEYS = {
    "hf-overrides": "architectures max_position_embeddings rope_parameters rope_scaling rope_theta sliding_window "
    "is_matryoshka matryoshka_dimensions num_labels id2label problem_type classifier_from_token method "
    "num_experts_per_tok",
    "compilation-config": "mode cudagraph_mode cudagraph_capture_sizes max_cudagraph_capture_size compile_sizes "
    "compile_ranges_endpoints custom_ops splitting_ops pass_config use_inductor_graph_partition compile_mm_encoder "
    "cudagraph_num_of_warmups cudagraph_copy_inputs cudagraph_specialize_lora",
    "speculative-config": "method num_speculative_tokens prompt_lookup_max prompt_lookup_min "
    "suffix_decoding_max_tree_depth suffix_decoding_max_cached_requests suffix_decoding_max_spec_factor "
    "suffix_decoding_min_token_prob",
    "structured-outputs-config": "backend disable_any_whitespace disable_additional_properties enable_in_reasoning",
    "mm-processor-kwargs": "min_pixels max_pixels size fps num_frames num_crops min_dynamic_patch max_dynamic_patch "
    "do_resize do_pan_and_scan",
}
SAFE_KEYS = {name: frozenset(keys.split()) for name, keys in _SAFE_KEYS.items()}
_NO_MORE = ". What would reach files, code, another model or the network is not among these"

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
    """The options by their names with dashes, each with a value of its kind. Raises OptionError for the first wrong
    one.

    A switch that is off is returned as `no-…`, because the engine's command line has no false values.
    """
    checked: dict[str, Any] = {}
    for given, value in options.items():
        asked = str(given).replace("_", "-")
        name = _find(asked)
        read = _read(name, value)
        if not checked.keys().isdisjoint({name, f"no-{name}"}):
            raise OptionError(f"the engine option {name} is given twice: leave one out")
        if OPTIONS[name] is Kind.SWITCH:
            checked[name if read is (asked == name) else f"no-{name}"] = True
        else:
            checked[name] = read
    return checked


def _find(name: str) -> str:
    bare = name.removeprefix("no-")
    if name in OPTIONS:
        return name
    if OPTIONS.get(bare) is Kind.SWITCH:
        return bare
    if why := REFUSED.get(name) or REFUSED.get(bare):
        raise OptionError(f"the engine option {name} {why}")
    if not _NAME.fullmatch(name):
        raise OptionError(f"{_short(name)} cannot be an engine option: give its long name, without dashes before it")
    near = difflib.get_close_matches(name[:64], [*OPTIONS, *REFUSED], n=1, cutoff=0.75)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(OPTIONS))}"
    raise OptionError(f"there is no engine option {_short(name)} that a model may set: {hint}")


def _read(name: str, value: Any) -> Any:
    kind, form = OPTIONS[name], installed.forms(installed.root()).get(name, Form())
    choices = SAFE_CHOICES.get(name) or ([] if form.types else form.choices)
    try:
        if choices:
            return next(choice for choice in choices if str(choice).lower() == str(value).strip().lower())
        match kind:
            case Kind.SWITCH:
                return {"true": True, "false": False}[str(value).strip().lower()]
            case Kind.NUMBER:
                return -1 if (name, value) == ("max-model-len", "auto") else _counted(form, value)
            case Kind.OBJECT:
                return _structured(SAFE_KEYS.get(name), value)
        return _written(kind, value)
    except (ValueError, TypeError, LookupError, StopIteration, RecursionError):
        raise OptionError(
            f"the engine option {name} cannot be {_short(value)}: give {_rule(name, form, choices)}"
        ) from None


def _rule(name: str, form: Form, choices: list[Any]) -> str:
    """What the value must be, for a message that begins with "give"."""
    if choices:
        return f"one of {', '.join(map(str, choices))}{_NO_MORE if name in SAFE_CHOICES else ''}"
    if name in SAFE_KEYS:
        return f"a JSON object with {', '.join(sorted(SAFE_KEYS[name]))}{_NO_MORE}"
    if OPTIONS[name] is not Kind.NUMBER:
        return OPTIONS[name]
    bounds = "".join(f", {installed.BOUNDS[which]} {bound}" for which, bound in form.bounds.items())
    return f"{'a whole number' if _is_whole(form) else 'a number'}{bounds}"


def _is_whole(form: Form) -> bool:
    return form.types == {"int"}


def _counted(form: Form, value: Any) -> int | float:
    """A number, or a text that vLLM accepts for one: "2048", "8k" (8000), "8K" (8192)."""
    number = _number(value.strip()) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError
    if not -1 <= number <= MOST_NUMBER or not all(_HOLDS[name](number, bound) for name, bound in form.bounds.items()):
        raise ValueError
    if number == int(number):
        return int(number)
    if _is_whole(form):
        raise ValueError
    return number


def _number(text: str) -> int | float:
    if not (match := _NUMBER.fullmatch(text)):
        raise ValueError
    digits, letter = match.groups()
    if not letter:
        return float(digits) if "." in digits else int(digits)
    if letter.isupper():
        return int(digits) * 1024 ** _POWERS[letter.lower()]
    return int(float(digits) * 1000 ** _POWERS[letter])


def _structured(keys: frozenset[str] | None, value: Any) -> dict[str, Any]:
    content = json.loads(value) if isinstance(value, str) else value
    if not isinstance(content, dict) or (keys and not content.keys() <= keys):
        raise ValueError
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    if len(text.encode()) > MOST_TEXT or "\\u0000" in text:  # the database takes no NUL
        raise ValueError
    return dict(json.loads(text))


def _written(kind: Kind, value: Any) -> str:
    if not isinstance(value, str) or "\0" in value or len(value.encode()) > MOST_TEXT:
        raise ValueError
    if kind is Kind.WORD and not _WORD.fullmatch(value):
        raise ValueError
    if kind is Kind.TEMPLATE and "{{" not in value and "{%" not in value:
        raise ValueError  # vLLM would take it for the path of a file
    return value


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except RecursionError:
        text = "that"
    return text if len(text) <= 60 else f"{text[:60]}…"
