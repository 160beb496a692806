"""Which GPUs an engine may use here, as their driver's library (NVML) knows them."""

import contextlib
import importlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@contextlib.contextmanager
def usable(nvml: Any = None, visible: str | None = None) -> Iterator[tuple[Any, list[Any]]]:
    """NVML, and its handles of the GPUs that an engine may use, in the engine's order.

    None where there is no GPU, no driver or no nvidia-ml-py; a GPU that does not answer its driver is left out. Closed
    at the end, so that a driver can be replaced below a process that runs for weeks.

    nvml: the module pynvml, or what stands for it. visible: the value of CUDA_VISIBLE_DEVICES, of which NVML knows
    nothing; by default the one that the engine gets.
    """
    nvml = nvml or library()
    try:
        if nvml is not None:
            nvml.nvmlInit()
    except nvml.NVMLError:
        nvml = None
    if nvml is None:
        yield None, []
        return
    try:
        if visible is None:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        yield nvml, _visible(nvml, visible)
    finally:
        with contextlib.suppress(nvml.NVMLError):  # the driver has gone; there is nothing left to close
            nvml.nvmlShutdown()


def library() -> Any:
    """The module pynvml, of the package nvidia-ml-py; None where it is not installed."""
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return None


def _visible(nvml: Any, visible: str | None) -> list[Any]:
    """As CUDA reads the variable: indices, or UUIDs that may be cut short, up to the first that there is not."""
    found: dict[str, Any] = {}
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            with contextlib.suppress(nvml.NVMLError):  # fallen off its bus
                found[str(index)] = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError:
        return []
    if visible is None:
        return list(found.values())
    chosen: list[Any] = []
    for name in visible.replace(" ", "").split(","):
        handle = found.get(name) if name.isdecimal() else _by_uuid(nvml, found.values(), name)
        if handle is None:
            break
        chosen.append(handle)
    return chosen


def _by_uuid(nvml: Any, handles: Iterable[Any], name: str) -> Any:
    try:
        if name.startswith("MIG-"):  # a part of a GPU, which has no index of its own
            return nvml.nvmlDeviceGetHandleByUUID(name)
        found = [handle for handle in handles if nvml.nvmlDeviceGetUUID(handle).startswith(name)]
    except nvml.NVMLError:
        return None
    return found[0] if len(found) == 1 and name.startswith("GPU-") else None


@dataclass(frozen=True)
class Memory:
    """Bytes that programs may take, as CUDA sees them, and that they have taken."""

    total: int
    used: int


def memory_of(nvml: Any, handle: Any) -> Memory:
    """Raises the library's NVMLError. What the driver keeps for itself (600 MiB of an H200) is in neither number;
    a library that does not tell it apart counts it as used."""
    if (second := getattr(nvml, "nvmlMemory_v2", None)) is not None:
        try:
            told = nvml.nvmlDeviceGetMemoryInfo(handle, version=second)
            return Memory(int(told.total) - int(told.reserved), int(told.used))
        except (nvml.NVMLError, TypeError, AttributeError):  # of a driver, or a library, that knows the first form only
            pass
    told = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Memory(int(told.total), int(told.used))


def memory(nvml: Any = None, visible: str | None = None) -> int:
    """Bytes of the first of them that programs may take, or 0 where there is none."""
    with usable(nvml, visible) as (nvml, handles):
        try:
            return memory_of(nvml, handles[0]).total if handles else 0
        except nvml.NVMLError:
            return 0
