"""The GPUs that an engine may use here, by the driver's library (NVML)."""

import contextlib
import importlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@contextlib.contextmanager
def usable(nvml: Any = None, visible: str | None = None) -> Iterator[tuple[Any, list[Any]]]:
    """NVML, and its handles of the GPUs that an engine may use, in the engine's order.

    None and no handles where there is no driver or no nvidia-ml-py. A GPU that does not answer its driver is left out.
    NVML is closed at the end, so that the driver can be replaced while this process runs.

    nvml: the module pynvml, or a substitute. visible: the value of CUDA_VISIBLE_DEVICES, which NVML ignores; by default
    the one that the engine gets.
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
        with contextlib.suppress(nvml.NVMLError):  # the driver is gone, so there is nothing to close
            nvml.nvmlShutdown()


def library() -> Any:
    """The module pynvml, of the package nvidia-ml-py; None where it is not installed."""
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return None


def _visible(nvml: Any, visible: str | None) -> list[Any]:
    """Reads the variable as CUDA does: indices, or UUIDs that may be shortened, up to the first that does not exist."""
    found: dict[str, Any] = {}
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            with contextlib.suppress(nvml.NVMLError):  # the GPU does not answer on its bus
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
    """Bytes of a GPU: total, as far as programs may use it, and used by programs."""

    total: int
    used: int


def memory_of(nvml: Any, handle: Any) -> Memory:
    """The memory of a GPU. What the driver keeps for itself (600 MiB of an H200) is in neither number; an old library
    counts it as used. Raises NVMLError."""
    if (second := getattr(nvml, "nvmlMemory_v2", None)) is not None:
        try:
            told = nvml.nvmlDeviceGetMemoryInfo(handle, version=second)
            return Memory(int(told.total) - int(told.reserved), int(told.used))
        except (nvml.NVMLError, TypeError, AttributeError):  # of a driver, or a library, that knows the first form only
            pass
    told = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Memory(int(told.total), int(told.used))


def memory(nvml: Any = None, visible: str | None = None) -> int:
    """Bytes of the first GPU that programs may use, or 0 where there is no GPU."""
    with usable(nvml, visible) as (nvml, handles):
        try:
            return memory_of(nvml, handles[0]).total if handles else 0
        except nvml.NVMLError:
            return 0
