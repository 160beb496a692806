"""Engine options that suit the machine, where the model's own options say nothing. Sizes in bytes, or GiB where named.

On a CPU every core works for the model (vLLM would keep one back: 1.5 times slower on two cores), graphs are not
compiled (a minute at each start for a few per cent), and weights of 16 bits are computed with 32 where the processor
has no instructions for them and the memory suffices (MiniLM: 5.8 s against 12.4 in bfloat16 and 27 in float16). On a
GPU the two sizes that decide the throughput are set explicitly by its memory, so that our window of requests in
flight is known to fit the engine's.
"""

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import psutil

GIB = 2**30

# GPU memory from this many GiB on: sequences at once, tokens per step.
_BY_MEMORY = ((70, 1024, 16384), (40, 512, 8192), (20, 256, 8192), (0, 128, 4096))
_ON_CPU = (128, 4096)  # 256 are 3 % faster (SmolLM2, two cores), but their first answers come twice as late


@cache
def gpu_memory() -> int:
    """Bytes of memory of the first GPU, or 0 where there is none."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return int(found.stdout.split()[0]) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return 0


@cache
def computes_in_16_bits() -> bool:
    """Has the processor instructions for bfloat16? (Linux tells; elsewhere it is left to vLLM.)"""
    try:
        return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(Path("/proc/cpuinfo").read_text().split()))
    except OSError:
        return True


def _weights(source: str) -> int:
    return sum(path.stat().st_size for path in Path(source).glob("*.safetensors"))


def options(given: dict[str, Any], task: str, source: str) -> dict[str, Any]:
    """The engine's options: what the model asks for, and for the rest what suits this machine."""
    memory = gpu_memory()
    if memory:
        seqs, tokens = next((seqs, tokens) for floor, seqs, tokens in _BY_MEMORY if memory >= floor * GIB)
        made: dict[str, Any] = {"max-num-seqs": seqs, "max-num-batched-tokens": tokens}
    else:
        seqs, tokens = _ON_CPU
        made = {"max-num-seqs": seqs, "max-num-batched-tokens": tokens, "enforce-eager": True}
        if not computes_in_16_bits() and 2 * _weights(source) < psutil.virtual_memory().total // 3:
            made["dtype"] = "float32"
    if task == "embedding":
        made["runner"] = "pooling"
    return made | given


def environment() -> dict[str, str]:
    """Environment of vLLM. What the operator has set wins."""
    made = {"SPT_NOENV": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    if not gpu_memory():
        gib = max(1, min(8, psutil.virtual_memory().total // (5 * GIB)))
        made |= {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_CPU_KVCACHE_SPACE": str(gib)}
    return {name: os.environ.get(name, value) for name, value in made.items()}
