"""What people copy, and what it is read as; hostile text; `model add --paste`."""

import importlib.util
import json
import re
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from hypothesis import example, given
from hypothesis import strategies as st

from models_registry.catalog.paste import SHORT, PasteError, Proposal, read
from models_registry.catalog.rules import NAME
from models_registry.engine.options import OPTIONS
from models_registry.models import Model
from tests.models_registry.catalog.test_add import model_folder

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
DOCKER = f"""
# from the model's page
docker run --runtime nvidia --gpus all --name vllm \\
    -v ~/.cache/huggingface:/root/.cache/huggingface \\
    --env "HUGGING_FACE_HUB_TOKEN=hf_secret" \\
    -p 8000:8000 --ipc=host \\
    vllm/vllm-openai:latest \\
    --model {LLAMA} --tensor-parallel-size 2 --port 80
"""
SERVE = f"""$ CUDA_VISIBLE_DEVICES=0,1 VLLM_API_KEY=sk-secret uv run vllm serve {LLAMA} \\
  --max-model-len 8k --dtype=bfloat16 -tp 2 -O3 \\
  --no-enable-prefix-caching --enable_auto_tool_choice --tool-call-parser hermes \\
  --host 0.0.0.0 --port 8000 --api-key sk-secret sk-secret2 --disable-log-requests \\
  --served-model-name Prod/Llama other --hf-overrides '{{"rope_theta": 1e6}}' &
"""


@pytest.mark.parametrize(
    ("text", "source", "name", "more"),
    [
        (LLAMA, LLAMA, "llama-3.1-8b-instruct", {}),
        (f"  '{LLAMA}'\n", LLAMA, "llama-3.1-8b-instruct", {}),
        (f"https://huggingface.co/{LLAMA}", LLAMA, "llama-3.1-8b-instruct", {}),
        (f"https://huggingface.co/{LLAMA}/?library=vllm#top", LLAMA, "llama-3.1-8b-instruct", {}),
        (f"https://huggingface.co/{LLAMA}/tree/v1.0", LLAMA, "llama-3.1-8b-instruct", {"revision": "v1.0"}),
        (f"https://huggingface.co/{LLAMA}/discussions/3", LLAMA, "llama-3.1-8b-instruct", {}),
        (
            "https://huggingface.co/o/n-GGUF/blob/main/n.Q4_K_M.gguf?download=true",
            "o/n-GGUF",
            "n.q4_k_m",
            {"revision": "main", "file": "n.Q4_K_M.gguf"},
        ),
        ("https://huggingface.co/o/n/blob/abc123/config.json", "o/n", "n", {"revision": "abc123"}),
        ("hf.co/o/n", "o/n", "n", {}),
        ("hf download o/n --revision v2 --token hf_secret --local-dir /x", "o/n", "n", {"revision": "v2"}),
        ("huggingface-cli download o/n n.gguf", "o/n", "n", {"file": "n.gguf"}),
        ("/usr/bin/hf download o/n && ls", "o/n", "n", {}),
        ("vllm serve o/n", "o/n", "n", {}),
        ("pip install vllm; vllm serve --model=o/n --revision v3", "o/n", "n", {"revision": "v3"}),
        ("vllm serve o/n --quantization awq -q fp8", "o/n", "n", {"engine_args": {"quantization": "fp8"}}),
        ("vllm serve o/n --max-logprobs -1", "o/n", "n", {"engine_args": {"max-logprobs": -1}}),
        (
            "vllm serve o/n --enable-lora --no-enable-lora",
            "o/n",
            "n",
            {"engine_args": {"no-enable-lora": True}},
        ),
        (
            "vllm serve o/n --hf-overrides.rope_parameters.factor 4 --hf_overrides.sliding_window=9",
            "o/n",
            "n",
            {"engine_args": {"hf-overrides": {"rope_parameters": {"factor": 4}, "sliding_window": 9}}},
        ),
        ("vllm serve o/n --task embed", "o/n", "n", {"task": "embedding"}),
        ("vllm serve o/n --task score", "o/n", "n", {"task": "score"}),
        ("vllm serve o/n --task generate", "o/n", "n", {}),
        (
            "vllm serve o/n --runner pooling",
            "o/n",
            "n",
            {"task": "embedding", "engine_args": {"runner": "pooling"}},
        ),
        (
            "python3 -m vllm.entrypoints.openai.api_server --model /models/n --seed 7 | tee log",
            "/models/n",
            "n",
            {"engine_args": {"seed": 7}},
        ),
        (DOCKER, LLAMA, "llama-3.1-8b-instruct", {"engine_args": {"tensor-parallel-size": 2}}),
        ("docker run rocm/vllm:latest vllm serve o/n", "o/n", "n", {}),
        (
            SERVE,
            LLAMA,
            "Prod/Llama",
            {
                "engine_args": {
                    "max-model-len": 8000,
                    "dtype": "bfloat16",
                    "tensor-parallel-size": 2,
                    "optimization-level": 3,
                    "no-enable-prefix-caching": True,
                    "enable-auto-tool-choice": True,
                    "tool-call-parser": "hermes",
                    "hf-overrides": {"rope_theta": 1e6},
                }
            },
        ),
        ("/models/My Model/", "/models/My Model", "my-model", {}),
        ("~/models/tiny", "~/models/tiny", "tiny", {}),
        ("/models/tiny.Q4.gguf", "/models/tiny.Q4.gguf", "tiny.q4", {}),
        ("tiny.gguf", "tiny.gguf", "tiny", {}),
        ("http://pool:8000/v1", "http://pool:8000/v1", "pool", {}),
        ("https://pool.example/x/v1/chat/completions?key=secret", "https://pool.example/x/v1", "pool.example", {}),
    ],
)
def test_what_is_read(text: str, source: str, name: str, more: dict[str, Any]) -> None:
    found = asdict(read(text))
    on_hub = source[0] not in "/~" and "://" not in source and source != "tiny.gguf"
    assert found == asdict(Proposal(source, name, on_hub)) | more
    assert "secret" not in json.dumps(found)


@pytest.mark.parametrize(
    ("command", "option", "words"),
    [
        ("--trust-remote-code", "trust-remote-code", "code that comes with a model"),
        ("--trust_remote_code", "trust-remote-code", "code that comes with a model"),
        ("--tokenizer org/other", "tokenizer", "outside"),
        ("--download-dir /x", "download-dir", "outside"),
        ("--chat-template ./template.jinja", "chat-template", "chat_template.jinja"),
        ("--chat-template $(cat /etc/passwd)", "chat-template", "chat_template.jinja"),
        ("--dtype `whoami`", "dtype", "'`whoami`'"),
        ("--lora-modules a=/x b=/y", "lora-modules", "outside"),
        ("--max-modle-len 8", "max-modle-len", "did you mean max-model-len"),
        ("-n 2", "nnodes", "network"),
        ("-zz 2", "-zz", "cannot be an engine option"),
        ("--hf-token hf_secret", "hf-token", "network"),
        ("--apikey=sk-secret", "apikey", "did you mean api-key"),
        ("--hf-overrides.a.b.c.d.e.f.g.h.i.j 1", "hf-overrides.a", "cannot be"),
        ("--swap-space 4", "swap-space", "is gone"),
    ],
)
def test_what_is_refused_is_said_and_the_rest_is_kept(command: str, option: str, words: str) -> None:
    found = read(f"vllm serve o/n {command} --max-num-seqs 8")
    assert found.source == "o/n"
    assert found.engine_args == {"max-num-seqs": 8}
    ((refused, reason),) = found.refused
    assert refused == option
    assert words in reason
    assert "secret" not in reason


@pytest.mark.parametrize("key", ["sk-secret", "-sk-secret", "--sk-secret", "=sk-secret", "'sk-secret x'"])
@pytest.mark.parametrize("option", ["--api-key ", "--api_key ", "--api-key=", "--hf-token "])
def test_a_key_is_nowhere(option: str, key: str) -> None:
    assert "sk-secret" not in json.dumps(asdict(read(f"vllm serve o/n {option}{key} --port 1")))
    with pytest.raises(PasteError) as error:
        read(f"vllm serve {option}{key}")
    assert "sk-secret" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "nothing to read"),
        (" \n ", "nothing to read"),
        ("hello there", "no model is named here"),
        ("gpt2", "no model is named here"),
        ("$(rm -rf /)", "no model is named here"),
        ("`reboot`", "no model is named here"),
        ("../../etc", "no model is named here"),
        ("org/..", "no model is named here"),
        ("vllm serve 'o/n", "not closed"),
        ("vllm serve o/n \\", "not closed"),
        ("o/n\0", "without NUL"),
        ("x" * 100_000, "at most"),
        ("vllm serve", "names no model"),
        ("vllm serve o/n --revision ../x", "the revision is not the name"),
        ("hf download", "names no model"),
        ("hf download o/n --repo-type dataset", "data set"),
        ("https://huggingface.co/datasets/o/n", "not a model's"),
        ("https://huggingface.co/o", "not a model's"),
        ("https://huggingface.co/o/n/tree/..", "the revision is not the name"),
        ("https://example.org/o/n", "neither that of a model on a hub nor"),
        ("https://me:sk-secret@pool/v1", "a user or a password"),
        ("http://[::1/v1", "not complete"),
        ("http://pool:port/v1", "not complete"),
        ("s3://bucket/model", "no model is named here"),
        ("/usr/bin/curl -H 'Authorization: Bearer sk-secret'", "no model is named here"),
        ("docker run postgres", "no model is named here"),
    ],
)
def test_what_is_not_understood(text: str, words: str) -> None:
    with pytest.raises(PasteError, match=words) as error:
        read(text)
    assert "secret" not in str(error.value)
    assert len(str(error.value)) < 500


PARTS = st.sampled_from(
    ["vllm", "serve", "docker run", "vllm/vllm-openai", "hf download", "o/n", "https://", "huggingface.co/", "/v1"]
    + ["-O", "-tp", "--", "=", ".", "'", '"', "\\", "\n", " ", "[", "{", "$(x)", "`x`", "-cc.mode", "--api-key", "\0"]
    + [f"--{name}" for name in OPTIONS]
)


@given(st.text() | st.lists(PARTS | st.text(max_size=5), max_size=12).map(" ".join) | st.lists(PARTS).map("".join))
@example("--hf-overrides.a.b=1 --hf-overrides 3 --hf-overrides.a 1")
def test_any_text_is_a_proposal_or_refused(text: str) -> None:
    for given_text in (text, f"vllm serve o/n {text}"):
        try:
            found = read(given_text)
        except PasteError:
            continue
        assert NAME.fullmatch(found.name)
        assert ".." not in found.name
        json.dumps(found.engine_args, allow_nan=False)


def test_short_options_are_those_of_vllm() -> None:
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("vLLM is not installed")
    text = (Path(spec.submodule_search_locations[0]) / "engine/arg_utils.py").read_text()
    assert {short: long for long, short in re.findall(r'"--([a-z0-9-]+)",\s*"-([a-z]+)"', text)} == SHORT


# The command


@pytest.fixture
def add(tmp_path: Path, settings: Any, db: None) -> Any:
    settings.VBS_DATA_DIR, settings.MODELS_DIR = tmp_path, tmp_path / "models"

    def run(*words: str) -> str:
        err = StringIO()
        call_command("model", "add", *words, stdout=StringIO(), stderr=err)
        return err.getvalue()

    return run


def test_a_pasted_command_registers_a_model(tmp_path: Path, add: Any) -> None:
    folder = model_folder(tmp_path / "Tiny")
    said = add("--paste", f"vllm serve {folder} --seed 7 -tp 2 --trust-remote-code", "--arg", "seed=8")
    assert "not taken: the engine option trust-remote-code cannot be set" in said
    model = Model.objects.get()
    assert (model.name, model.source) == ("tiny", str(folder))
    assert model.engine_args == {"seed": 8, "tensor-parallel-size": 2}
    add("--paste", str(folder), "--name", "second")
    assert Model.objects.filter(name="second").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--paste", "o/n", "--base", "m"], "The model 'm' does not exist"),
        (["--paste", "o/n", "--hub", "o/n"], "leave out --hub"),
        (["m", "/x", "--revision", "main"], "revision applies only to a model of the hub"),
        (["m", "--hub", "o/n", "--token", "mine"], "there is no token 'mine'"),
        (["--paste", "what?"], "no model is named here"),
        (["m", "/x", "--paste", "/y"], "leave out SOURCE"),
        (["m", "/x", "--name", "n"], "--name is for --paste"),
        (["m"], "required"),
    ],
)
def test_a_paste_that_cannot_be_added(add: Any, words: list[str], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        add(*words)
    assert not Model.objects.exists()


def test_a_pasted_id_becomes_a_draft(add: Any) -> None:
    assert "model fetch smollm" in add("--paste", "https://huggingface.co/o/smollm/tree/v1", "--license", "mit")
    model = Model.objects.get()
    assert (model.name, model.state, model.source) == ("smollm", "draft", "")
    assert (model.hub_id, model.hub_revision, model.license) == ("o/smollm", "v1", "mit")
