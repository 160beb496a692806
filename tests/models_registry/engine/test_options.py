"""Which options of vLLM a model may set: what is read how, what is refused and why, and that vLLM still has them."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models_registry.engine.machine import installed
from models_registry.engine.options import (
    LORA_RANKS,
    MOST_TEXT,
    OPTIONS,
    OURS,
    REFUSED,
    SAFE_CHOICES,
    SAFE_KEYS,
    Kind,
    OptionError,
    check,
)

TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("max-model-len", "2048", 2048),
        ("max_model_len", 2048.0, 2048),
        ("max-model-len", "8k", 8000),
        ("max-model-len", "8K", 8192),
        ("max-model-len", "25.6k", 25600),
        ("max-model-len", "auto", -1),
        ("max-model-len", -1, -1),
        ("max-logprobs", 0, 0),
        ("kv-cache-memory-bytes", "24G", 24 * 2**30),
        ("gpu-memory-utilization", "0.9", 0.9),
        ("gpu-memory-utilization", 1, 1),
        ("cpu-offload-gb", 10, 10),
        ("dtype", "BFloat16", "bfloat16"),
        ("attention-backend", "flash_attn", "FLASH_ATTN"),
        ("max-lora-rank", "64", 64),
        ("optimization-level", 0, 0),
        ("quantization", "compressed-tensors", "compressed-tensors"),
        ("reasoning_parser", "deepseek_r1", "deepseek_r1"),
        ("chat-template", TEMPLATE, TEMPLATE),
        ("limit-mm-per-prompt", '{"image": 4, "video": {"count": 1}}', {"image": 4, "video": {"count": 1}}),
        ("hf-overrides", {"rope_parameters": {"factor": 4.0}}, {"rope_parameters": {"factor": 4.0}}),
        ("default-chat-template-kwargs", {"enable_thinking": False}, {"enable_thinking": False}),
        ("speculative-config", {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3}, None),
    ],
)
def test_values_are_read(name: str, value: Any, read: Any) -> None:
    checked = check({name: value})
    assert checked == {name.replace("_", "-"): value if read is None else read}
    assert check(checked) == checked


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("enforce-eager", True, "enforce-eager"),
        ("enforce_eager", "true", "enforce-eager"),
        ("enable-prefix-caching", False, "no-enable-prefix-caching"),
        ("enable-prefix-caching", "False", "no-enable-prefix-caching"),
        ("no-enable-prefix-caching", True, "no-enable-prefix-caching"),
        ("no-enable-prefix-caching", False, "enable-prefix-caching"),
    ],
)
def test_a_switch_that_is_off_is_said_to_the_engine(name: str, value: Any, read: str) -> None:
    assert check({name: value}) == {read: True}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max-model-len", "2 thousand", "max-model-len cannot be '2 thousand': give a "),
        ("max-model-len", -2, "number"),
        ("max-model-len", True, "number"),
        ("max-model-len", None, "number"),
        ("max-model-len", "1.5K", "number"),
        ("max-model-len", "9" * 5000, "number"),
        ("max-model-len", 10**20, "number"),
        ("max-model-len", "٣", "number"),
        ("gpu-memory-utilization", "nan", "number"),
        ("gpu-memory-utilization", float("inf"), "number"),
        ("cpu-offload-gb", "1e999", "number"),
        ("dtype", ["float16"], "give "),
        ("quantization", "my.module.Class", "a name of letters"),
        ("load-format", "tensorizer", "What would reach files, code, another model or the network"),
        ("load-format", "runai_streamer", "one of auto, hf, safetensors"),
        ("generation-config", "/etc", "one of auto, vllm"),
        ("distributed-executor-backend", "my.module.Class", "one of mp, uni"),
        ("distributed-executor-backend", "ray", "one of mp, uni"),
        ("enforce-eager", "maybe", "true or false"),
        ("enforce-eager", 1, "true or false"),
        ("reasoning-parser", "/tmp/x.py", "a name of letters"),
        ("chat-template", "/etc/passwd", "chat_template.jinja"),
        ("chat-template", "template_chatml.jinja", "chat_template.jinja"),
        ("chat-template", "{{ x }}\0", "template"),
        ("chat-template", "{{ x }}\ud800", "template"),
        ("chat-template", "{{ x }}" * MOST_TEXT, "template"),
        ("hf-overrides", "{", "a JSON object with"),
        ("hf-overrides", [], "a JSON object with"),
        ("hf-overrides", {"auto_map": {"AutoConfig": "x.Y"}}, "a JSON object with"),
        ("hf-overrides", {"rope_theta": float("nan")}, "a JSON object with"),
        ("hf-overrides", {"problem_type": "\0"}, "a JSON object with"),
        ("hf-overrides", "[" * 20_000, "a JSON object with"),
        ("speculative-config", {"model": "org/draft"}, "another model"),
        ("compilation-config", {"inductor_passes": {"x": "os.system"}}, "a JSON object with"),
        ("compilation-config", {"cache_dir": "/etc"}, "a JSON object with"),
        ("structured-outputs-config", {"reasoning_parser_plugin": "/tmp/x.py"}, "a JSON object with"),
        ("mm-processor-kwargs", {"trust_remote_code": True}, "a JSON object with"),
    ],
)
def test_a_value_that_is_wrong(name: str, value: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words) as error:
        check({name: value})
    assert name in str(error.value)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("trust-remote-code", "code that comes with a model"),
        ("no-trust-remote-code", "code that comes with a model"),
        ("tool_parser_plugin", "runs code"),
        ("reasoning-parser-plugin", "runs code"),
        ("middleware", "runs code"),
        ("logits-processors", "runs code"),
        ("worker-cls", "runs code"),
        ("download-dir", "outside the model's folder"),
        ("tokenizer", "put what it needs into that folder"),
        ("hf-config-path", "outside"),
        ("model-loader-extra-config", "outside"),
        ("config", "outside"),
        ("kv-transfer-config", "network"),
        ("uds", "option uds is set by this server"),
        ("api-key", "set by this server"),
        ("ssl-keyfile", "set by this server"),
        ("rope-scaling", "use hf-overrides"),
        ("max-modle-len", "did you mean max-model-len?"),
        ("tensor-paralel-size", "did you mean tensor-parallel-size?"),
        ("zzz", "there are api-server-count, "),
        ("--dtype", "without dashes before it"),
        ("dtype=x", "cannot be an engine option"),
        ("", "'' cannot be an engine option"),
        ("no-dtype", "no engine option 'no-dtype'"),
    ],
)
def test_an_option_that_is_refused(name: str, words: str) -> None:
    with pytest.raises(OptionError, match=words) as error:
        check({name: "sk-secret"})
    assert "sk-secret" not in str(error.value)


@pytest.mark.parametrize("names", [("max-num-seqs", "max_num_seqs"), ("enable-lora", "no-enable-lora")])
def test_an_option_that_is_given_twice(names: tuple[str, str]) -> None:
    with pytest.raises(OptionError, match="given twice"):
        check(dict.fromkeys(names, True) if "lora" in names[0] else dict.fromkeys(names, 8))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*OPTIONS, *REFUSED]) | st.text(), ANYTHING, max_size=3))
def test_anything_is_read_or_refused(options: dict[str, Any]) -> None:
    try:
        checked = check(options)
    except OptionError:
        return
    assert check(checked) == checked


# What vLLM itself says, read as text: importing it takes half a minute


@pytest.fixture(scope="module")
def vllm() -> Path:
    return installed.root() or pytest.skip("vLLM is not installed")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max-model-len", 2.5, "give a whole number, at least -1"),
        ("tensor-parallel-size", 0, "give a whole number, at least 1"),
        ("gpu-memory-utilization", 90, "give a number, above 0, at most 1"),
        ("dtype", "int8", "one of auto, half, float16"),
        ("max-lora-rank", 24, "one of 1, 8, 16, 32, 64, 128, 256, 320, 512"),
        ("attention-backend", "FLASH", "one of FLASH_ATTN, "),
        ("optimization-level", 4, "one of 0, 1, 2, 3"),
    ],
)
def test_a_value_that_vllm_does_not_take(vllm: Path, name: str, value: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        check({name: value})


def test_without_vllm_its_words_and_bounds_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anything let in that reaches files or code."""
    monkeypatch.setattr(installed, "root", lambda: None)
    options = {"dtype": "int8", "max-lora-rank": 24, "gpu-memory-utilization": 90}
    assert check(options) == options
    for name, value in [("dtype", "/etc/passwd"), ("load-format", "tensorizer"), ("max-lora-rank", "many")]:
        with pytest.raises(OptionError):
            check({name: value})


def test_what_is_written_otherwise_is_not_known(tmp_path: Path) -> None:
    assert installed.forms(tmp_path) == {}
    (tmp_path / "vllm/engine").mkdir(parents=True)
    (tmp_path / "vllm/engine/arg_utils.py").write_text(
        "from vllm.config import Size, Far\n"
        'class EngineArgs:\n    size: "Size" = 1\n    far: Far | None = near(Far)\n    near: int | Far = 1\n'
    )
    found = installed.forms(tmp_path / "vllm")
    assert {name: form.types for name, form in found.items()} == {"size": {"?"}, "far": {"?"}, "near": {"int", "?"}}


REACHES = re.compile(
    r"host|port\b|addr|url|uds|socket|file|path|dir\b|folder|plugin|module|middleware|-cls\b|class\b|hook|ssl|key|token$|"
    r"media|log|config-file|origin|proxy|revision|\bcode|worker|executor|transfer|server"
)


def test_nothing_that_reaches_files_the_network_or_code_can_be_set() -> None:
    harmless = {
        "api-server-count",  # a number of processes
        "kv-cache-memory-bytes",  # no key
        "distributed-executor-backend",  # a choice of two words, of which none is a class
        "max-logprobs",
        "logprobs-mode",
    }
    assert {name for name in OPTIONS if REACHES.search(name)} - harmless == set()


def test_half_an_option_is_none() -> None:
    """vLLM takes the beginning of an option's name for the option."""
    halves = {name[:end] for name in (*REFUSED, *OPTIONS) for end in range(1, len(name))} - OPTIONS.keys()
    for half in halves:
        with pytest.raises(OptionError):
            check({half: "/etc/passwd"})


@pytest.mark.parametrize(
    "name", ["--port", "-p", "port=1", "hf-overrides.auto_map", "seed --port", "seed\n--port", "O3", ""]
)
def test_an_option_within_an_option_is_none(name: str) -> None:
    with pytest.raises(OptionError):
        check({name: 1})


def names(vllm: Path) -> set[str]:
    """Those of arg_utils, and of the server's own options, which are the fields of two classes."""
    found = set(re.findall(r'"--([a-z0-9-]+)"', (vllm / "engine/arg_utils.py").read_text()))
    server = (vllm / "entrypoints/launchers/cli_args.py").read_text()
    return found | {name.replace("_", "-") for name in re.findall(r"^    ([a-z]\w*): ", server, re.MULTILINE)}


def test_vllm_has_every_option_that_a_model_may_set(vllm: Path) -> None:
    elsewhere = {"api-server-count"}  # in a function of its own
    assert sorted(OPTIONS.keys() - names(vllm) - elsewhere) == []
    assert '"--api-server-count"' in (vllm / "entrypoints/launchers/cli_args.py").read_text()


def test_vllm_has_every_option_that_is_refused(vllm: Path) -> None:
    gone = {name for name, why in REFUSED.items() if why.startswith("is gone")}
    assert gone & names(vllm) == set()
    elsewhere = {"model-tag", "headless", "config", "disable-log-requests"}
    assert sorted(REFUSED.keys() - OURS - names(vllm) - gone - elsewhere) == []
    assert sorted(OURS - names(vllm) - elsewhere) == []


def test_vllm_has_every_choice(vllm: Path) -> None:
    said = "\n".join(
        (vllm / place).read_text() for place in ("config/parallel.py", "model_executor/model_loader/__init__.py")
    )
    choices = SAFE_CHOICES["distributed-executor-backend"] + SAFE_CHOICES["load-format"]
    assert [choice for choice in choices if f'"{choice}"' not in said] == []


def test_vllm_says_of_every_option_what_it_takes(vllm: Path) -> None:
    forms = installed.forms(vllm)
    assert sorted(OPTIONS.keys() - forms.keys()) == ["api-server-count"]
    assert [name for name, kind in OPTIONS.items() if kind is Kind.SWITCH and forms[name].types != {"bool"}] == []
    known = [name for name in OPTIONS if name in forms and (forms[name].types - {"?"} or forms[name].choices)]
    assert len(known) > 0.9 * len(OPTIONS)


def test_vllm_has_every_rank(vllm: Path) -> None:
    assert tuple(installed.forms(vllm)["max-lora-rank"].choices) == LORA_RANKS


def test_vllm_has_every_key(vllm: Path) -> None:
    for name, file in [
        ("speculative-config", "speculative"),
        ("compilation-config", "compilation"),
        ("structured-outputs-config", "structured_outputs"),
    ]:
        fields = set(re.findall(r"^    ([a-z]\w*): ", (vllm / f"config/{file}.py").read_text(), re.MULTILINE))
        assert sorted(SAFE_KEYS[name] - fields) == []
