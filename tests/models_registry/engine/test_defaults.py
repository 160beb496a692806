"""Engine options for the machine: CPUs with and without 16-bit instructions, GPUs by memory. Nothing is started."""

import psutil
import pytest

from models_registry.engine import defaults
from models_registry.engine.machine import gpus
from models_registry.engine.server import Engine
from models_registry.engine.spec import Address, EngineSpec, StartResult
from tests.models_registry.nvml import FakeGpu, FakeNvml

PROBES = (defaults.gpu_memory, defaults.computes_in_16_bits)


@pytest.fixture(autouse=True)
def forget():
    for probe in PROBES:
        probe.cache_clear()
    yield
    for probe in PROBES:
        probe.cache_clear()


@pytest.fixture
def machine(monkeypatch):
    def set(gpu_gib=0, bits16=True):
        monkeypatch.setattr(defaults, "gpu_memory", lambda: gpu_gib * defaults.GIB)
        monkeypatch.setattr(defaults, "computes_in_16_bits", lambda: bits16)

    return set


@pytest.mark.parametrize(
    "gib, seqs, tokens", [(80, 1024, 16384), (48, 512, 8192), (24, 256, 8192), (16, 128, 4096), (8, 128, 4096)]
)
def test_a_gpu_by_its_memory(machine, tmp_path, monkeypatch, gib, seqs, tokens):
    machine(gib)
    monkeypatch.setattr(defaults, "cores", lambda: 2)
    made = defaults.options({}, "embedding", str(tmp_path))
    sizes = {"max-num-seqs": seqs, "max-num-batched-tokens": tokens}
    assert made == sizes | {"runner": "pooling", "scheduling-policy": "priority"}
    assert defaults.options({"scheduling-policy": "fcfs"}, "chat", str(tmp_path))["scheduling-policy"] == "fcfs"


@pytest.mark.parametrize("cores, servers", [(1, None), (7, None), (8, 2), (15, 3), (16, 4), (64, 4)])
def test_a_gpu_gets_api_servers_by_the_cores(machine, tmp_path, monkeypatch, cores, servers):
    monkeypatch.setattr(defaults, "cores", lambda: cores)
    machine(80)

    def made(**given):
        options = {name.replace("_", "-"): value for name, value in given.items()}
        return defaults.options(options, "chat", str(tmp_path)).get("api-server-count")

    assert made() == servers
    assert made(api_server_count=3) == 3
    assert made(enable_lora=True, api_server_count=3) is None, "an adapter is loaded into one of them only"
    assert made(enable_sleep_mode=True) is None
    machine()
    assert made() is None


def test_a_gpu_forks_the_process_that_computes(machine, monkeypatch):
    monkeypatch.delenv("VLLM_WORKER_MULTIPROC_METHOD", raising=False)
    machine(80)
    assert defaults.environment()["VLLM_WORKER_MULTIPROC_METHOD"] == "fork"
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    assert defaults.environment()["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    monkeypatch.delenv("VLLM_WORKER_MULTIPROC_METHOD")
    machine()
    assert "VLLM_WORKER_MULTIPROC_METHOD" not in defaults.environment()


def test_the_backend_of_structured_outputs_does_not_depend_on_the_first_request(machine, tmp_path):
    """vLLM takes one by the first that it sees, and then fails what that one cannot do."""

    def chosen(**given):
        return defaults.options(given, "chat", str(tmp_path))["structured-outputs-config"]

    machine()
    assert chosen() == {"backend": "xgrammar"}, "llguidance reads fast tokenizers only"
    (tmp_path / "tokenizer.json").touch()
    assert chosen() == {"backend": "guidance"}
    assert chosen(**{"structured-outputs-config": {"backend": "auto"}}) == {"backend": "auto"}
    given = {"structured-outputs-config": {"disable_any_whitespace": True}}
    assert chosen(**given) == {"backend": "guidance", "disable_any_whitespace": True}
    assert "structured-outputs-config" not in defaults.options({}, "embedding", str(tmp_path))


def test_a_cpu_compiles_nothing_and_uses_every_core(machine, tmp_path, monkeypatch):
    machine()
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    assert defaults.options({}, "chat", str(tmp_path))["enforce-eager"] is True
    environment = defaults.environment()
    assert environment["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"
    assert 1 <= int(environment["VLLM_CPU_KVCACHE_SPACE"]) <= 8


def test_float32_where_16_bits_are_slow_and_memory_suffices(machine, tmp_path, monkeypatch):
    machine(bits16=False)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    assert defaults.options({}, "chat", str(tmp_path))["dtype"] == "float32"
    assert defaults.options({"dtype": "bfloat16"}, "chat", str(tmp_path))["dtype"] == "bfloat16"
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("M", (), {"total": 3000})())
    assert "dtype" not in defaults.options({}, "chat", str(tmp_path))


def test_the_weights_in_a_folder(tmp_path):
    assert defaults.weights("") == defaults.weights(str(tmp_path)) == defaults.weights(str(tmp_path / "none")) == 0
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 10)
    assert defaults.weights(str(tmp_path)) == 10
    for number in range(2):
        (tmp_path / f"model-{number}.safetensors").write_bytes(b"x" * 7)
    assert defaults.weights(str(tmp_path)) == 14, "one of the two forms is loaded"


def test_what_the_model_and_the_operator_say_wins(machine, tmp_path, monkeypatch):
    machine(80)
    assert defaults.options({"max-num-seqs": 7}, "chat", str(tmp_path))["max-num-seqs"] == 7
    assert defaults.options({}, "embedding", str(tmp_path))["runner"] == "pooling"
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "0")
    assert defaults.environment()["VLLM_NO_USAGE_STATS"] == "0"


@pytest.mark.parametrize(
    "nvml, found",
    [
        (FakeNvml(FakeGpu(total=81559), FakeGpu(total=5)), 81559),
        (FakeNvml(FakeGpu(total=81559, reserved=559)), 81000),
        (FakeNvml(FakeGpu(total=81559, reserved=None)), 81559),
        (FakeNvml(FakeGpu(total=None)), 0),
        (FakeNvml(), 0),
        (FakeNvml(driver=False), 0),
        (None, 0),
    ],
)
def test_the_first_gpu_counts(monkeypatch, nvml, found):
    monkeypatch.setattr(gpus, "library", lambda: nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert defaults.gpu_memory() == found


def test_on_a_cpu_one_place_for_adapters_stays_empty(monkeypatch, tmp_path):
    """There the last place would be used for requests that ask for no adapter."""
    monkeypatch.setattr(defaults, "gpu_memory", lambda: 0)
    made = defaults.options({"enable-lora": True, "max-loras": 2, "max-cpu-loras": 2}, "chat", str(tmp_path))
    assert (made["max-loras"], made["max-cpu-loras"]) == (3, 3)
    spec = EngineSpec("m", str(tmp_path))
    assert Engine(spec, Address("http://engine/v1"), 1, started=StartResult(options=made)).adapter_places == 2
    assert "max-loras" not in defaults.options({}, "chat", str(tmp_path))
    monkeypatch.setattr(defaults, "gpu_memory", lambda: 80 * defaults.GIB)
    made = defaults.options({"enable-lora": True, "max-loras": 2, "max-cpu-loras": 5}, "chat", str(tmp_path))
    assert (made["max-loras"], made["max-cpu-loras"]) == (2, 5)
    assert Engine(spec, Address("http://engine/v1"), 1, started=StartResult(options=made)).adapter_places == 5
