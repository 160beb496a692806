"""Engine options that suit the machine, for what the model's options leave open. Sizes are bytes, or GiB where named.

On a CPU every core works for the model (vLLM would keep one back, which is 1.5 times slower on two cores). Graphs are
not compiled (that takes a minute at each start, for a few per cent). 16-bit weights are computed with 32 bits where the
processor has no instructions for 16 and the memory suffices (MiniLM: 5.8 s, against 12.4 s in bfloat16 and 27 s in
float16). On a GPU its memory decides the two sizes that throughput depends on; they are set explicitly, so that our
window of requests in flight fits the engine's.

The backend of structured outputs is set too. Otherwise vLLM chooses one by the first request that needs any, and later
requests that this backend cannot serve fail. llguidance serves the most, and refuses what it does not know instead of
ignoring it (figures in docs/models.md); it needs a fast tokenizer.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

from models_registry.engine.machine import gpus, main_memory

GIB = 2**30
UTILIZATION = 0.92  # of a GPU's memory where nothing is said: vLLM 0.32, CacheConfig.gpu_memory_utilization

# GPU memory from this many GiB on: sequences at once, tokens per step.
_BY_MEMORY = ((70, 1024, 16384), (40, 512, 8192), (20, 256, 8192), (0, 128, 4096))
# vLLM runs steps of up to 512 tokens as CUDA graphs, so with 1,024 sequences the fullest steps run without one. These
# are the alternatives that `python -m benchmarks gpu` compares; only 512 has been measured so far.
GRAPHS: dict[str, dict[str, Any]] = {
    "1,024 sequences, graphs up to 512": {"max-num-seqs": 1024},
    "512 sequences, graphs up to 512": {"max-num-seqs": 512},
    "1,024 sequences, graphs up to 1,024": {"max-num-seqs": 1024, "max-cudagraph-capture-size": 1024},
}
# On a fast GPU a single process that reads calls and writes answers limits the speed of short ones (485/s on an H200,
# with 1.1 cores). With adapters or sleep mode it stays a single one: each is asked of one process only.
CORES_PER_SERVER, MOST_SERVERS = 4, 4
ONE_SERVER = ("enable-lora", "enable-sleep-mode")
# For engines that are put to sleep: a sleeping one keeps a part of the GPU's memory (its context and graphs).
ASLEEP = {"enable-sleep-mode": True, "gpu-memory-utilization": 0.85}
FAST_TOKENIZERS = ("tokenizer.json", "tekken.json")  # what llguidance can read of a model
_ON_CPU = (128, 4096)  # 256 are 3 % faster (SmolLM2, two cores), but their first answers come twice as late


@cache
def gpu_memory() -> int:
    """Bytes of memory of the first GPU, or 0 where there is none."""
    return gpus.memory()


@cache
def computes_in_16_bits() -> bool:
    """Has the processor instructions for bfloat16? Linux says so; elsewhere vLLM decides."""
    try:
        return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(Path("/proc/cpuinfo").read_text().split()))
    except OSError:
        return True


def weights(source: str) -> int:
    """Bytes of the weights in a model's folder."""
    for pattern in ("*.safetensors", "*.gguf", "*.bin") if source else ():
        if found := sum(path.stat().st_size for path in Path(source).glob(pattern)):
            return found
    return 0


def options(given: dict[str, Any], task: str, source: str, size: int | None = None) -> dict[str, Any]:
    """The engine's options: those of the model, and for the rest those that suit this machine.

    size: bytes of the weights, where they are not in the folder `source` yet.
    """
    memory = gpu_memory()
    if memory:
        seqs, tokens = next((seqs, tokens) for floor, seqs, tokens in _BY_MEMORY if memory >= floor * GIB)
        made: dict[str, Any] = {"max-num-seqs": seqs, "max-num-batched-tokens": tokens}
        if (servers := min(cores() // CORES_PER_SERVER, MOST_SERVERS)) > 1:
            made["api-server-count"] = servers
    else:
        seqs, tokens = _ON_CPU
        made = {"max-num-seqs": seqs, "max-num-batched-tokens": tokens, "enforce-eager": True}
        size = weights(source) if size is None else size
        if not computes_in_16_bits() and 2 * size < main_memory.total() // 3:
            made["dtype"] = "float32"
    made["scheduling-policy"] = "priority"  # what people ask directly goes before the lines of batches
    if task in ("embedding", "score"):
        made["runner"] = "pooling"
    else:
        asked = given.get("structured-outputs-config", {})
        made["structured-outputs-config"] = {"backend": structured_outputs(source)} | asked
        given = {name: value for name, value in given.items() if name != "structured-outputs-config"}
    made |= given
    if not memory and made.get("enable-lora") is True:
        made |= with_spare_place(made)
    if any(made.get(name) is True for name in ONE_SERVER):
        made.pop("api-server-count", None)
    return made


def with_spare_place(options: dict[str, Any]) -> dict[str, Any]:
    """One place more for adapters, which stays empty, on a CPU.

    There vLLM 0.32 computes a request for the model itself, when it runs beside one for an adapter, with the adapter in
    the last place (index -1 in vllm/lora/ops/torch_ops/lora_ops.py). While that place is empty, this does no harm.
    """
    places = int(options.get("max-loras") or 1) + 1
    return {"max-loras": places, "max-cpu-loras": max(places, int(options.get("max-cpu-loras") or 0))}


def cores() -> int:
    """How many cores this process may use, and so an engine that it starts."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def backend(given: dict[str, Any], source: str) -> str:
    """The backend of structured outputs for a model in this folder with these options."""
    asked = given.get("structured-outputs-config", {}).get("backend")
    return str(asked or structured_outputs(source))


def structured_outputs(source: str) -> str:
    """The backend that suits the tokenizer of the model in this folder."""
    fast = any((Path(source) / name).exists() for name in FAST_TOKENIZERS) if source else True
    return "guidance" if fast else "xgrammar"


def environment() -> dict[str, str]:
    """Environment variables for vLLM. Those that the operator has set win."""
    made = {"SPT_NOENV": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    made["VLLM_LOG_STATS_INTERVAL"] = "600"  # seconds between two lines of statistics in its log, else ten
    if gpu_memory():
        # With fork, the process that computes is a copy of the one that has imported everything, which saves 18 s of a
        # start on an H200. That is safe as long as the first process does not use CUDA before: it asks only the
        # driver's library, and where it has used CUDA, vLLM itself starts a fresh process instead.
        made["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    else:
        gib = max(1, min(8, main_memory.total() // (5 * GIB)))
        made |= {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_CPU_KVCACHE_SPACE": str(gib)}
    return {name: os.environ.get(name, value) for name, value in made.items()}
