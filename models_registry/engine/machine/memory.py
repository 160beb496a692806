"""How much memory an engine uses, in bytes."""

import contextlib
from typing import Any

import psutil

from models_registry.engine import defaults
from models_registry.engine.machine import gpus
from models_registry.engine.server import Engine
from models_registry.engine.spec import EngineKind
from vbs.run import processes


def used_by(engine: Engine, nvml: Any = None) -> int | None:
    """Memory that the engine and its processes use: of the GPU if it has one, else main memory. None where unknown.

    Memory that several of its processes share counts once. Of several GPUs that share a model, the fullest counts. In
    a container the driver may not say which process uses what; then all used memory of the GPU counts, that of other
    programs too. nvml: the module pynvml, or a substitute.
    """
    if engine.pid is None:
        return None
    family = processes.family(engine.pid)
    if engine.spec.kind is EngineKind.VLLM and defaults.gpu_memory():
        return _of_gpu(nvml, {process.pid for process in family}, engine.started.options)
    return sum(map(_of, family)) or None


def _of(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        memory = process.memory_full_info()
        return int(getattr(memory, "pss", 0) or memory.uss)
    return 0


def _of_gpu(nvml: Any, pids: set[int], options: dict[str, Any]) -> int | None:
    with gpus.usable(nvml) as (library, handles):
        several = handles[: int(options.get("tensor-parallel-size", 1))]
        if not several:
            return None
        try:
            running = [library.nvmlDeviceGetComputeRunningProcesses(handle) for handle in handles]
            own = max(sum(one.usedGpuMemory or 0 for one in some if one.pid in pids) for some in running)
            return int(own or max(gpus.memory_of(library, handle).used for handle in several))
        except library.NVMLError:
            return None
