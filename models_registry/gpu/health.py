"""How the GPUs of this machine are, and whether that is a reason to wait. Knows neither engine nor registry.

A reading is plain data, for a worker's row and for whoever reads that: sizes in bytes, `utilization` in percent,
`temperature` in °C, times in seconds since 1970. What a card does not tell is null.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from models_registry.engine.machine import gpus, main_memory
from models_registry.fit.formula import size
from vbs.configuration import runtime

COOLER = 5  # °C below the limit before work goes on, so that it does not come and go with every degree


def read(nvml: Any = None, visible: str | None = None) -> dict[str, Any]:
    """A reading. Takes milliseconds and never raises for what a card or its driver does not answer.

    kind: gpu, or cpu where `devices` is empty. memory_used, memory_total: main memory. utilization: of the processors,
    since this thread's last reading. nvml and visible: as for `gpus.usable`.
    """
    available, total = main_memory.available(), main_memory.total()
    with gpus.usable(nvml, visible) as (library, handles):
        devices = [_device(library, handle) for handle in handles]
    return {
        "kind": "gpu" if devices else "cpu",
        "devices": devices,
        "memory_used": total - available,
        "memory_total": total,
        "utilization": psutil.cpu_percent(),
        "at": time.time(),
    }


def _device(nvml: Any, handle: Any) -> dict[str, Any]:
    def ask(question: Callable[..., Any], *about: Any) -> Any:
        try:
            return question(handle, *about)
        except nvml.NVMLError:  # cards differ: some have no sensor, parts of a GPU have no clock of their own
            return None

    def watts(milliwatts: int | None) -> float | None:
        return None if milliwatts is None else milliwatts / 1000

    memory, busy = ask(lambda card: gpus.memory_of(nvml, card)), ask(nvml.nvmlDeviceGetUtilizationRates)
    return {
        "name": ask(nvml.nvmlDeviceGetName),
        "memory_used": memory and memory.used,
        "memory_total": memory and memory.total,
        "utilization": busy and int(busy.gpu),
        "temperature": ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        "power_watts": watts(ask(nvml.nvmlDeviceGetPowerUsage)),
        "power_limit_watts": watts(ask(nvml.nvmlDeviceGetEnforcedPowerLimit)),
    }


def why_wait(reading: Mapping[str, Any], loaded: bool, waiting: bool = False) -> str:
    """Why no new work may start, with the value, the limit and its setting; empty when it may.

    loaded: there is an engine of ours, so what the memory holds is not the others'. waiting: work was already being
    held back. A machine without a GPU is never a reason: it slows down by itself, and `fit` looks at its memory.
    """
    for number, device in enumerate(reading.get("devices", ())):
        name = f"GPU {number} ({device['name'] or 'of unknown name'})"
        if reason := _too_hot(name, device["temperature"], waiting):
            return reason
        if not loaded and (reason := _too_full(name, device["memory_used"], device["memory_total"])):
            return reason
    return ""


def _too_hot(name: str, celsius: int | None, waiting: bool) -> str:
    limit = runtime.value("VBS_GPU_MAX_CELSIUS")
    if celsius is None or celsius <= (limit - COOLER if waiting else limit):
        return ""
    return (
        f"{name} is at {celsius} °C and the limit is {limit} °C (VBS_GPU_MAX_CELSIUS): "
        f"new work waits until it has cooled to {limit - COOLER} °C"
    )


def _too_full(name: str, used: int | None, total: int | None) -> str:
    limit = runtime.value("VBS_GPU_MAX_USED_PERCENT")
    if used is None or not total or 100 * used <= limit * total:
        return ""
    return (
        f"others have taken {100 * used / total:.1f} % of the memory of {name}, {size(used)} of {size(total)}, and the "
        f"limit is {limit} % (VBS_GPU_MAX_USED_PERCENT): new work waits until they free it"
    )
