"""What this machine offers, and what engine options ask of it. The GPU is a fake of NVIDIA's library."""

from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from models_registry.engine import defaults
from models_registry.fit import available as room
from models_registry.fit.formula import GIB, AvailableMemory, EngineSettings, FitError


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(total=20 * GIB, available=12 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(defaults, "gpu_memory", lambda: 0)
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)


@pytest.mark.parametrize(("options", "share"), [({}, 0.92), ({"gpu-memory-utilization": 0.5}, 0.5)])
def test_a_gpu_offers_a_share_of_its_memory(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], share: float
) -> None:
    monkeypatch.setattr(defaults, "gpu_memory", lambda: 80 * GIB)
    assert room.available_memory(options) == AvailableMemory("gpu", int(80 * GIB * share), host=12 * GIB)


def test_without_a_gpu_memory_and_a_fixed_cache() -> None:
    assert room.available_memory({}) == AvailableMemory("cpu", 12 * GIB, cache=4 * GIB)


def test_a_fixed_cache_takes_the_place_of_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "gpu_memory", lambda: 80 * GIB)
    assert room.available_memory({"kv-cache-memory-bytes": 3 * GIB}) == AvailableMemory(
        "gpu", 80 * GIB, cache=3 * GIB, host=12 * GIB
    )


def test_the_operator_sets_the_cache_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    assert room.available_memory({}) == AvailableMemory("cpu", 12 * GIB, cache=7 * GIB)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "a lot")
    with pytest.raises(FitError, match="VLLM_CPU_KVCACHE_SPACE is 'a lot': give whole GiB"):
        room.available_memory({})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, EngineSettings(4096)),
        ({"max-model-len": 1000}, EngineSettings(1000)),
        ({"max-model-len": "32k"}, EngineSettings(32_000)),
        ({"max-model-len": "2K"}, EngineSettings(2048)),
        ({"max-model-len": "auto"}, EngineSettings(4096)),
        ({"max-model-len": -1}, EngineSettings(4096)),
        ({"max-num-seqs": 7, "max-num-batched-tokens": 512}, EngineSettings(4096, max_sequences=7, batched_tokens=512)),
        ({"dtype": "float32"}, EngineSettings(4096, bits=32, cache_bits=32)),
        ({"dtype": "auto", "kv-cache-dtype": "fp8_e5m2"}, EngineSettings(4096, cache_bits=8)),
        ({"dtype": "float32", "kv-cache-dtype": "bfloat16"}, EngineSettings(4096, bits=32, cache_bits=16)),
        ({"kv-cache-dtype": "nvfp4"}, EngineSettings(4096, cache_bits=4)),
        ({"quantization": "fp8_per_tensor"}, EngineSettings(4096, quantized=8.0)),
        ({"quantization": "awq"}, EngineSettings(4096)),  # as it is stored
        ({"enable-lora": True}, EngineSettings(4096, lora_slots=1)),
        ({"enable-lora": True, "max-loras": 4, "max-lora-rank": 64}, EngineSettings(4096, lora_slots=4, lora_rank=64)),
        ({"max-loras": 4}, EngineSettings(4096)),
        ({"cpu-offload-gb": 1.5, "tensor-parallel-size": 2}, EngineSettings(4096, offload=3 * GIB // 2, parallel=2)),
    ],
)
def test_engine_options_as_a_load(options: dict[str, Any], expected: EngineSettings) -> None:
    assert room.engine_settings(options, 4096) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"max-model-len": 0},
        {"max-num-seqs": "many"},
        {"tensor-parallel-size": 0},
        {"max-num-batched-tokens": 1.5},
        {"enable-lora": True, "max-loras": None},
        {"cpu-offload-gb": "all"},
        {"cpu-offload-gb": float("nan")},
        {"cpu-offload-gb": True},
    ],
)
def test_an_option_that_is_no_number_is_named(options: dict[str, Any]) -> None:
    *_, (name, value) = options.items()
    with pytest.raises(FitError, match=f"{name} is {value!r}: give a"):
        room.engine_settings(options, 4096)


@pytest.mark.parametrize("share", [0, 1.5, "half"])
def test_a_share_that_is_none(monkeypatch: pytest.MonkeyPatch, share: Any) -> None:
    monkeypatch.setattr(defaults, "gpu_memory", lambda: 80 * GIB)
    with pytest.raises(FitError, match="gpu-memory-utilization is"):
        room.available_memory({"gpu-memory-utilization": share})
