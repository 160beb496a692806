"""Reads memory, temperature and utilisation of this machine's GPUs, and says whether new work has to wait for them.

A reading is plain data for a worker's row: sizes in bytes, `utilization` in per cent, `temperature` in °C, times in
seconds since 1970. A value that a card does not report is null.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from models_registry.engine.machine import gpus, main_memory
from models_registry.fit.formula import size
from vbs.configuration import runtime

COOLER = 5  # °C below the limit at which work goes on, so that it does not stop and start with every degree


def read(nvml: Any = None, visible: str | None = None) -> dict[str, Any]:
    """Take a reading. It takes milliseconds, and raises nothing when a card or its driver does not answer.

    kind: gpu, or cpu where `devices` is empty. memory_used, memory_total: of main memory. utilization: of the
    processors, since this thread's last reading. nvml, visible: as for `gpus.usable`.
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
        except nvml.NVMLError:  # some cards have no sensor, and parts of a GPU have no clock of their own
            return None

    def watts(milliwatts: int | None) -> float | None:
        return None if milliwatts is None else milliwatts / 1000

    memory, busy = ask(lambda card: gpus.memory_of(nvml, card)), ask(nvml.nvmlDeviceGetUtilizationRates)
    return {
        "uuid": ask(nvml.nvmlDeviceGetUUID),
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

    loaded: this worker has an engine, so the used memory is not that of other programs. waiting: work was waiting for
    the GPU at the last look. A machine without a GPU gives no reason: it slows down by itself, and `fit` looks at its
    memory.
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
        f"other programs use {100 * used / total:.1f} % of the memory of {name}, {size(used)} of {size(total)}, and "
        f"the limit is {limit} % (VBS_GPU_MAX_USED_PERCENT): new work waits until they free it"
    )
