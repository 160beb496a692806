"""Does a model fit? The formula by published configs, each verdict, and `manage.py model fit`. Nothing is started."""

import json
import struct
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.core.management import CommandError, call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models_registry.catalog import add, folders
from models_registry.catalog.folders import ModelError
from models_registry.engine import defaults
from models_registry.engine.machine import gpus
from models_registry.fit.formula import (
    GIB,
    PER_WORD,
    PROCESS,
    AvailableMemory,
    EngineSettings,
    FitError,
    Shape,
    Verdict,
    error,
    fit,
    need,
    shape,
    size,
)
from models_registry.models import Measurement, Model
from tests.models_registry.catalog.test_add import model_folder as make_folder

SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
LLAMA3 = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}
GEMMA3_270M = {
    "architectures": ["Gemma3ForCausalLM"],
    "head_dim": 256,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "sliding_window": 512,
    "use_bidirectional_attention": False,
    "vocab_size": 262144,
}
GEMMA3_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
}
DEEPSEEK_V2_LITE = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v2",
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 102400,
}
QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
MINILM = {
    "architectures": ["BertModel"],
    "hidden_size": 384,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
    "vocab_size": 30522,
}
LLAMA3_VALUES = {"BF16": 8_030_261_248}


@pytest.mark.parametrize(
    ("config", "bytes_per_token"),
    [
        (SMOLLM2, 23_040),
        (LLAMA3, 131_072),
        (DEEPSEEK_V2_LITE, 27 * (512 + 64) * 2),
        (QWEN2, 24 * 2 * 2 * 64 * 2),
        (MINILM, 0),
    ],
)
def test_the_cache_of_a_token(config: dict[str, Any], bytes_per_token: int) -> None:
    model = shape(config)
    assert [model.cache(tokens) for tokens in (1, 1000)] == [bytes_per_token, 1000 * bytes_per_token]
    assert model.cache(1000, bits=8) == 500 * bytes_per_token


def test_a_sliding_window_keeps_the_window_and_what_is_in_flight() -> None:
    model = shape(GEMMA3_270M)
    assert (model.windowed, model.context, model.tied) == (15, 32768, True)
    layer = 2 * 1 * 256 * 2
    assert model.cache(512) == (3 * 512 + 15 * 511) * layer
    assert model.cache(32768) == (3 * 32768 + 15 * 511) * layer
    assert model.cache(32768, in_flight=100) == (3 * 32768 + 15 * 611) * layer
    assert model.cache(300, in_flight=8192) == 18 * 300 * layer


def test_what_a_config_leaves_to_its_class() -> None:
    model = shape(GEMMA3_4B)
    assert (model.heads, model.kv_heads, model.head_dim, model.context) == (8, 4, 256, 131_072)
    assert model.windowed == 34 - 5  # every 6th layer is full
    assert shape(SMOLLM2 | {"sliding_window": 4096}).windowed == 30


def test_layers_with_linear_attention_keep_no_cache() -> None:
    mixed = LLAMA3 | {"layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 8}
    assert shape(mixed).cache(1) == 131_072 // 4


def test_gpus_share_heads_but_not_a_latent_vector() -> None:
    assert shape(LLAMA3).cache(1, parallel=2) == 131_072 // 2
    assert shape(LLAMA3).cache(1, parallel=16) == 131_072 // 8
    assert shape(DEEPSEEK_V2_LITE).cache(1, parallel=4) == shape(DEEPSEEK_V2_LITE).cache(1)


@pytest.mark.parametrize(
    ("parameters", "load", "weights"),
    [
        ({"BF16": 1000}, EngineSettings(1), 2000),
        ({"F32": 1000}, EngineSettings(1), 2000),
        ({"BF16": 1000}, EngineSettings(1, bits=32), 4000),
        ({"I32": 1000, "F16": 100}, EngineSettings(1, bits=32), 4400),
        ({"BF16": 1000}, EngineSettings(1, offload=500, parallel=2), 500),
        (
            {"BF16": 576 * 49152 + 1000},
            EngineSettings(1, quantized=8.0),
            2 * 576 * 49152 + 1000,
        ),  # tied: one matrix stays
    ],
)
def test_weights_as_they_are_loaded(parameters: dict[str, int], load: EngineSettings, weights: int) -> None:
    assert need(shape(SMOLLM2), parameters, load, AvailableMemory("gpu", GIB)).weights == weights


def test_a_lora_slot_has_a_pair_beside_each_projection() -> None:
    load = EngineSettings(1, lora_slots=2, lora_rank=8)
    values = 30 * 8 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))
    assert need(shape(SMOLLM2), {}, load, AvailableMemory("gpu", GIB)).lora == 2 * values * 2


@pytest.mark.parametrize(
    ("room", "verdict", "change"),
    [
        (AvailableMemory("gpu", 22 * GIB), Verdict.FITS, {}),
        (AvailableMemory("gpu", 17 * GIB + GIB // 2), Verdict.SHORTER, {"max-model-len": 2096}),
        (AvailableMemory("gpu", 15 * GIB), Verdict.CHANGED, {"quantization": "fp8_per_tensor"}),
        (AvailableMemory("gpu", 6 * GIB), Verdict.DOES_NOT, {}),
        (AvailableMemory("gpu", 6 * GIB, host=64 * GIB), Verdict.CHANGED, {"cpu-offload-gb": 13.0}),
        (AvailableMemory("cpu", 24 * GIB, cache=4 * GIB), Verdict.FITS, {}),
        (AvailableMemory("cpu", 24 * GIB, cache=GIB // 2), Verdict.SHORTER, {"max-model-len": 4096}),
        (AvailableMemory("cpu", 15 * GIB, cache=GIB), Verdict.DOES_NOT, {}),
    ],
)
def test_the_verdict(room: AvailableMemory, verdict: Verdict, change: dict[str, Any]) -> None:
    found = fit(shape(LLAMA3), LLAMA3_VALUES, EngineSettings(8192), room)
    assert (found.verdict, found.change) == (verdict, change), found.text
    if verdict is not Verdict.DOES_NOT:
        assert found.need.total <= room.total
        assert (found.context == 8192) == ("max-model-len" not in change)
        assert found.sequences >= 1


def test_the_verdict_says_why_in_sizes() -> None:
    room = AvailableMemory("gpu", 6 * GIB)
    text = fit(shape(LLAMA3), LLAMA3_VALUES, EngineSettings(8192), room).text
    assert text.startswith("does not fit: 18.2 GiB needed")
    assert "15.0 GiB of it weights" in text
    assert "6.0 GiB available" in text


def test_the_verdict_says_up_to_which_context() -> None:
    text = fit(
        shape(LLAMA3), LLAMA3_VALUES, EngineSettings(8192), AvailableMemory("cpu", 24 * GIB, cache=GIB // 2)
    ).text
    assert text.startswith("fits up to a context of 4,096 tokens: ")
    assert text.endswith("1.0 GiB of KV cache needed and 512 MiB set aside (VLLM_CPU_KVCACHE_SPACE)")


def test_float32_is_halved_before_it_does_not_fit_on_a_cpu() -> None:
    found = fit(
        shape(LLAMA3), LLAMA3_VALUES, EngineSettings(8192, bits=32), AvailableMemory("cpu", 24 * GIB, cache=4 * GIB)
    )
    assert (found.verdict, found.change) == (Verdict.CHANGED, {"dtype": "bfloat16"})


def test_what_is_stored_quantized_is_not_quantized_again() -> None:
    stored = shape(LLAMA3 | {"quantization_config": {"quant_method": "awq"}})
    assert (
        fit(stored, LLAMA3_VALUES, EngineSettings(8192), AvailableMemory("gpu", 15 * GIB)).verdict is Verdict.DOES_NOT
    )


def test_an_encoder_reserves_no_cache() -> None:
    found = fit(shape(MINILM), {"F32": 22_713_728}, EngineSettings(512), AvailableMemory("cpu", 3 * GIB, cache=2 * GIB))
    assert (found.verdict, found.need.cache, found.sequences) == (Verdict.FITS, 0, 0)


# What loads were measured to take


@pytest.mark.parametrize("beyond", [-10 * GIB, -GIB, 0, GIB])
def test_a_correction_never_takes_from_weights_and_cache(beyond: int) -> None:
    room = AvailableMemory("gpu", 80 * GIB)
    plain = fit(shape(LLAMA3), LLAMA3_VALUES, EngineSettings(8192), room).need
    found = fit(shape(LLAMA3), LLAMA3_VALUES, EngineSettings(8192), room, beyond, 1).need
    assert found.total == max(plain.total + beyond, plain.weights + plain.cache)
    assert (found.weights, found.cache, found.correction) == (plain.weights, plain.cache, beyond)


def test_a_correction_shortens_the_context() -> None:
    room = AvailableMemory("gpu", 19 * GIB)
    assert fit(shape(LLAMA3), LLAMA3_VALUES, EngineSettings(8192), room).verdict is Verdict.FITS
    found = fit(shape(LLAMA3), LLAMA3_VALUES, EngineSettings(8192), room, 3 * GIB // 2, 2)
    assert found.verdict is Verdict.SHORTER
    assert found.need.total <= room.total < found.asked.total
    assert found.text.endswith("; corrected by 2 measured loads")


def process(kind: str) -> int:
    return PROCESS[kind] + PER_WORD[kind] * shape(LLAMA3).vocabulary


@pytest.mark.parametrize(
    ("room", "cache"),
    [
        (AvailableMemory("cpu", 24 * GIB, cache=4 * GIB), 4 * GIB),
        (
            AvailableMemory("cpu", 24 * GIB, cache=GIB // 2),
            GIB // 2,
        ),  # what the engine sets aside, not what was asked for
        (AvailableMemory("gpu", 80 * GIB, cache=2 * GIB), 2 * GIB),
        (AvailableMemory("gpu", 80 * GIB), None),  # its share, whatever the model
        (AvailableMemory("cpu", 24 * GIB), None),
    ],
)
def test_what_should_be_measured_after_a_load(room: AvailableMemory, cache: int | None) -> None:
    found = fit(shape(LLAMA3), LLAMA3_VALUES, EngineSettings(8192), room, correction=GIB, loads=1)
    without_cache = 2 * LLAMA3_VALUES["BF16"] + process(room.kind)
    assert found.resident == (None if cache is None else without_cache + cache)
    assert found.resident_with(7 * GIB) == without_cache + 7 * GIB


def test_after_a_load_it_is_there_as_asked_even_if_less_was_advised() -> None:
    found = fit(
        shape(LLAMA3), LLAMA3_VALUES, EngineSettings(8192, bits=32), AvailableMemory("cpu", 24 * GIB, cache=4 * GIB)
    )
    assert found.change == {"dtype": "bfloat16"}
    assert found.resident == 4 * LLAMA3_VALUES["BF16"] + 4 * GIB + process("cpu")


def test_an_encoder_is_there_without_a_cache() -> None:
    found = fit(shape(MINILM), {"F32": 1000}, EngineSettings(512), AvailableMemory("gpu", 80 * GIB))
    assert found.resident == found.resident_with(9 * GIB) == 2000 + PROCESS["gpu"]


def test_a_fixed_cache_of_a_gpu_is_named() -> None:
    text = fit(
        shape(LLAMA3), LLAMA3_VALUES, EngineSettings(8192), AvailableMemory("gpu", 80 * GIB, cache=GIB // 2)
    ).text
    assert text.endswith("1.0 GiB of KV cache needed and 512 MiB set aside (kv-cache-memory-bytes)")


def test_error_and_sizes() -> None:
    assert (error(200, 250), error(200, 150), error(200, 200)) == (0.25, -0.25, 0)
    assert (size(-GIB), size(-(2**20)), size(0), size(3 * GIB // 2)) == ("-1.0 GiB", "-1 MiB", "0 MiB", "1.5 GiB")


sizes = st.integers(1, 10**6)


@given(
    st.sampled_from([SMOLLM2, LLAMA3, GEMMA3_270M, GEMMA3_4B, DEEPSEEK_V2_LITE, MINILM]),
    st.builds(EngineSettings, context=sizes, sequences=st.integers(1, 1000), batched_tokens=sizes),
    st.integers(0, 10**5),
    st.sampled_from([AvailableMemory("gpu", 80 * GIB), AvailableMemory("cpu", 8 * GIB, cache=2 * GIB)]),
)
def test_more_never_needs_less(config: dict[str, Any], load: EngineSettings, more: int, room: AvailableMemory) -> None:
    model, values = shape(config), {"BF16": 10**8}
    asked = need(model, values, load, room).total
    assert need(model, values, replace(load, context=load.context + more), room).total >= asked
    assert need(model, values, replace(load, sequences=load.sequences + more), room).total >= asked


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
names = ["text_config", "architectures", "use_sliding_window", "quantization_config", "is_causal", "multi_query"]
spoiled = st.dictionaries(st.sampled_from(sorted({*GEMMA3_270M, *DEEPSEEK_V2_LITE, *names})), anything)


@settings(suppress_health_check=[HealthCheck.too_slow])  # which says more of the machine than of the strategy
@given(st.sampled_from([{}, SMOLLM2, GEMMA3_270M, DEEPSEEK_V2_LITE, MINILM]), spoiled)
def test_any_config_gives_a_shape_or_a_fit_error(config: dict[str, Any], other: dict[str, Any]) -> None:
    try:
        model = shape(config | other)
    except FitError as error:
        assert "the config has no" in str(error)
    else:
        assert isinstance(model, Shape)
        assert model.cache(1000) >= 0


# From a folder


def weights(*tensors: tuple[str, list[int]]) -> bytes:
    """A safetensors file of 16-bit tensors."""
    header, end = {}, 0
    for number, (kind, sides) in enumerate(tensors):
        start, end = end, end + 2 * sides[0] * sides[1]
        header[str(number)] = {"dtype": kind, "shape": sides, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * end


def test_parameters_are_counted_over_all_files(tmp_path: Path) -> None:
    first, second = weights(("BF16", [4, 8]), ("F16", [2, 2])), weights(("BF16", [1, 3]))
    folder = make_folder(tmp_path / "m", model__safetensors=first, other__safetensors=second)
    assert folders.parameters(folder) == {"BF16": 35, "F16": 4}
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"0": "model.safetensors"}}')
    assert folders.parameters(folder) == {"BF16": 32, "F16": 4}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model__safetensors": weights(("BF16", [4, 8]))[:-1]}, "damaged or not complete"),
        ({"model__safetensors": weights(("BF16", [4, 8])).replace(b"[4, 8]", b"[9,99]")}, "891 values in 64 bytes"),
        ({"model__safetensors": None}, r"no \*\.safetensors"),
        ({"model.safetensors.index.json": {"weight_map": {"a": "gone.safetensors"}}}, "lacks 1 of its weight files"),
    ],
)
def test_parameters_of_damaged_folders(tmp_path: Path, files: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        folders.parameters(make_folder(tmp_path / "m", **files))


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "gpu_memory", lambda: 0)
    monkeypatch.setattr(gpus, "library", lambda: None)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    memory = type("Memory", (), {"total": 16 * GIB, "available": 8 * GIB})()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


@pytest.fixture
def folder(tmp_path: Path, cpu: None) -> Path:
    return make_folder(tmp_path / "m", config__json=SMOLLM2, model__safetensors=weights(("BF16", [512, 1024])))


def run(*words: str) -> str:
    out = StringIO()
    call_command("model", "fit", *words, stdout=out)
    return out.getvalue()


@pytest.mark.django_db
def test_a_folder_that_fits(folder: Path) -> None:
    verdict, *table = run(str(folder)).splitlines()
    assert " fits: " in verdict
    assert [" ".join(line.split()[:-2]) for line in table] == [
        *("weights", "KV cache", "LoRA", "process", "working memory", "correction (0 loads)", "sum", "room (CPU)")
    ]
    assert table[1].endswith("1.0 GiB")
    assert table[5].endswith(" 0 MiB")
    assert table[-1].endswith("8.0 GiB")


@pytest.mark.django_db
def test_a_registered_model_as_it_is_set(folder: Path) -> None:
    add.add("tiny", str(folder), engine_args={"max-model-len": 1024, "dtype": "bfloat16"})
    found = json.loads(run("tiny", "--json"))
    assert (found["model"], found["verdict"], found["context"]) == ("tiny", "fits", 1024)
    assert found["need"]["weights"] == 2**20
    parts = ("weights", "cache", "lora", "process", "working", "correction")
    assert found["need"]["total"] == sum(found["need"][name] for name in parts)
    assert found["need"] == found["asked"]
    assert found["resident"] == found["need"]["total"] - found["need"]["working"]
    found = json.loads(run("tiny", "--json", "--context", "8192", "--sequences", "10"))
    assert found["verdict"] == "fits up to a shorter context"
    assert found["change"] == {"max-model-len": GIB // 23_040 // 10 // 16 * 16}


@pytest.mark.django_db
def test_measured_loads_correct_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models_registry.engine.machine.identity.name", lambda: "here")
    model = add.add("tiny", str(folder))
    for taken in (2 * GIB, 2 * GIB + 2**20):
        Measurement.objects.create(
            model=model, kind="load", machine="here", memory_bytes=taken, predicted_bytes=5 * GIB // 2
        )
    verdict, *table = run("tiny").splitlines()
    assert verdict.endswith("; corrected by 2 measured loads")
    assert table[5].split() == ["correction", "(2", "loads)", "-512", "MiB"]


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["remote", "scripted"])
def test_nothing_of_it_runs_here(kind: str) -> None:
    Model.objects.create(name="far", kind=kind)
    with pytest.raises(CommandError, match=f"far is a {kind} model: it takes no memory of this machine"):
        run("far")


@pytest.mark.django_db
def test_what_cannot_be_judged(folder: Path) -> None:
    with pytest.raises(CommandError, match="neither a model"):
        run("nothing-of-the-kind")
    with pytest.raises(CommandError, match="--context"):
        run(str(folder), "--context", "0")
    Model.objects.create(name="odd", source=str(folder), engine_args={"max-num-seqs": "many"})
    with pytest.raises(CommandError, match="odd: max-num-seqs is 'many': give a whole number"):
        run("odd")
    (folder / "config.json").write_text("{}")
    with pytest.raises(CommandError, match="the config has no num_hidden_layers"):
        run(str(folder))
