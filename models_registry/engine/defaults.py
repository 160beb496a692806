"""Engine options that suit the machine, where the model's own options say nothing. Sizes in bytes, or GiB where named.

On a CPU every core works for the model (vLLM would keep one back: 1.5 times slower on two cores), graphs are not
compiled (a minute at each start for a few per cent), and weights of 16 bits are computed with 32 where the processor
has no instructions for them and the memory suffices (MiniLM: 5.8 s against 12.4 in bfloat16 and 27 in float16). On a
GPU the two sizes that decide the throughput are set explicitly by its memory, so that our window of requests in
flight is known to fit the engine's.

The backend of structured outputs is said too: left to itself, vLLM takes one by the first request that needs any, and
what that one cannot do fails for all who come later. llguidance takes the most, and refuses what it does not know
instead of ignoring it (figures in docs/models.md); it needs a fast tokenizer.
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
# Tokens of the largest step that runs as a CUDA graph are vLLM's 512, so with 1,024 sequences the fullest steps run
# without. The alternatives, for `python -m benchmarks gpu`: nothing but 512 was measured yet, so 512 it is.
GRAPHS: dict[str, dict[str, Any]] = {
    "1,024 sequences, graphs up to 512": {"max-num-seqs": 1024},
    "512 sequences, graphs up to 512": {"max-num-seqs": 512},
    "1,024 sequences, graphs up to 1,024": {"max-num-seqs": 1024, "max-cudagraph-capture-size": 1024},
}
# One process that reads requests and writes answers is the limit for short ones on a fast GPU (485/s on an H200, with
# 1.1 cores). Adapters are loaded into one of several only, and sleep is asked of one, so there it stays one.
CORES_PER_SERVER, MOST_SERVERS = 4, 4
ONE_SERVER = ("enable-lora", "enable-sleep-mode")
# For an engine that is to make room by sleeping: some of the GPU is left to those that sleep (their context, graphs).
ASLEEP = {"enable-sleep-mode": True, "gpu-memory-utilization": 0.85}
FAST_TOKENIZERS = ("tokenizer.json", "tekken.json")  # what llguidance can read of a model
_ON_CPU = (128, 4096)  # 256 are 3 % faster (SmolLM2, two cores), but their first answers come twice as late


@cache
def gpu_memory() -> int:
    """Bytes of memory of the first GPU, or 0 where there is none."""
    return gpus.memory()


@cache
def computes_in_16_bits() -> bool:
    """Has the processor instructions for bfloat16? (Linux tells; elsewhere it is left to vLLM.)"""
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
    """The engine's options: what the model asks for, and for the rest what suits this machine.

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
    if task == "embedding":
        made["runner"] = "pooling"
    else:
        asked = given.get("structured-outputs-config", {})
        made["structured-outputs-config"] = {"backend": structured_outputs(source)} | asked
        given = {name: value for name, value in given.items() if name != "structured-outputs-config"}
    made |= given
    if any(made.get(name) is True for name in ONE_SERVER):
        made.pop("api-server-count", None)
    return made


def cores() -> int:
    """That this process, and so an engine that it starts, may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def backend(given: dict[str, Any], source: str) -> str:
    """The backend of structured outputs of a model with these options in this folder."""
    asked = given.get("structured-outputs-config", {}).get("backend")
    return str(asked or structured_outputs(source))


def structured_outputs(source: str) -> str:
    """The backend that holds the answers of the model in this folder to a schema, regex, grammar or choice."""
    fast = any((Path(source) / name).exists() for name in FAST_TOKENIZERS) if source else True
    return "guidance" if fast else "xgrammar"


def environment() -> dict[str, str]:
    """Environment of vLLM. What the operator has set wins."""
    made = {"SPT_NOENV": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    if gpu_memory():
        # The process that computes is a copy of the one that has imported all, which saves 18 s of a start on an H200.
        # That is safe as long as the first has not begun to use CUDA: ours is a fresh Python that asks the driver's
        # library only, and vLLM itself starts the other one anew where it finds otherwise.
        made["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    else:
        gib = max(1, min(8, main_memory.total() // (5 * GIB)))
        made |= {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_CPU_KVCACHE_SPACE": str(gib)}
    return {name: os.environ.get(name, value) for name, value in made.items()}
