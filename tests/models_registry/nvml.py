"""What stands for NVIDIA's library in tests: cards that answer what they are told to and refuse the rest."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

GIB = 2**30


@dataclass(frozen=True)
class FakeGpu:
    """Sizes in bytes, power in milliwatts. What is None the card does not support. lost: it has fallen off its bus.

    reserved: of the total, what the driver keeps for itself; None where it knows no second form of that answer.
    """

    name: str | None = "NVIDIA H200"
    total: int | None = 140 * GIB
    used: int = 0
    busy: int | None = 0
    celsius: int | None = 40
    power: int | None = 75_500
    limit: int | None = 700_000
    uuid: str = "GPU-5"
    reserved: int | None = 0
    lost: bool = False


class NVMLError(Exception):
    pass


def told(value: Any) -> Any:
    if value is None:
        raise NVMLError("Not Supported")
    return value


class FakeNvml:
    """pynvml. driver: whether there is one that answers. parts: of GPUs, which only their UUID finds."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    nvmlMemory_v2 = 2

    def __init__(self, *gpus: FakeGpu, driver: bool = True, parts: list[FakeGpu] | None = None) -> None:
        self.gpus, self.driver, self.parts = gpus, driver, parts or []
        self.open = 0  # how often it was opened and not closed

    def nvmlInit(self) -> None:
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        assert self.open
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        assert self.open
        if self.gpus[index].lost:
            raise NVMLError("GPU is lost")
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu:
        for gpu in (*self.gpus, *self.parts):
            if gpu.uuid == uuid:
                return gpu
        raise NVMLError("Not Found")

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> str:
        return str(told(gpu.name))

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu, version: int | None = None) -> SimpleNamespace:
        assert self.open
        total, reserved = told(gpu.total), gpu.reserved
        if version is None:
            return SimpleNamespace(total=total, used=gpu.used + (reserved or 0), free=total - gpu.used)
        return SimpleNamespace(total=total, used=gpu.used, reserved=told(reserved), free=total - gpu.used)

    def nvmlDeviceGetUtilizationRates(self, gpu: FakeGpu) -> SimpleNamespace:
        return SimpleNamespace(gpu=told(gpu.busy), memory=0)

    def nvmlDeviceGetTemperature(self, gpu: FakeGpu, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return int(told(gpu.celsius))

    def nvmlDeviceGetPowerUsage(self, gpu: FakeGpu) -> int:
        return int(told(gpu.power))

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: FakeGpu) -> int:
        return int(told(gpu.limit))
