"""How the GPU is, and when that holds work back. The GPU is a fake of NVIDIA's library."""

import json
import time
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from models_registry.engine import defaults
from models_registry.engine.machine import gpus
from models_registry.gpu import health
from tests.models_registry.nvml import GIB, FakeGpu, FakeNvml


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    memory = SimpleNamespace(total=20 * GIB, available=12 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(defaults, "gpu_memory", lambda: 0)
    monkeypatch.setattr(gpus, "library", lambda: None)
    settings.VBS_GPU_MAX_CELSIUS, settings.VBS_GPU_MAX_USED_PERCENT = 90, 50


def of(*gpus: FakeGpu, **more: Any) -> dict[str, Any]:
    return health.read(FakeNvml(*gpus), **more)


# Readings


def test_a_gpu_and_the_machine_around_it() -> None:
    nvml = FakeNvml(FakeGpu(used=30 * GIB, busy=97, celsius=61, power=431_250))
    before = time.time()
    found = health.read(nvml)
    assert found["devices"] == [
        {
            "uuid": "GPU-5",
            "name": "NVIDIA H200",
            "memory_used": 30 * GIB,
            "memory_total": 140 * GIB,
            "utilization": 97,
            "temperature": 61,
            "power_watts": 431.25,
            "power_limit_watts": 700.0,
        }
    ]
    assert (found["kind"], found["memory_used"], found["memory_total"]) == ("gpu", 8 * GIB, 20 * GIB)
    assert 0 <= found["utilization"] <= 100
    assert before <= found["at"] <= time.time()
    assert nvml.open == 0


@pytest.mark.parametrize("nvml", [None, FakeNvml(driver=False), FakeNvml()])
def test_without_a_gpu_the_machine_alone(nvml: FakeNvml | None) -> None:
    found = health.read(nvml)
    assert (found["kind"], found["devices"], found["memory_used"]) == ("cpu", [], 8 * GIB)


def test_what_the_driver_keeps_is_neither_there_nor_used() -> None:
    (device,) = of(FakeGpu(total=140 * GIB, used=30 * GIB, reserved=GIB))["devices"]
    assert (device["memory_total"], device["memory_used"]) == (139 * GIB, 30 * GIB)


def test_what_a_card_does_not_tell_is_null() -> None:
    mute = FakeGpu(name=None, total=None, busy=None, celsius=None, power=None, limit=None)
    (device,) = of(mute)["devices"]
    assert device.pop("uuid") == "GPU-5" and set(device.values()) == {None}
    assert len(device) == 7
    (device,) = of(FakeGpu(busy=0, power=0, used=0))["devices"]
    assert (device["utilization"], device["power_watts"], device["memory_used"]) == (0, 0.0, 0)  # which is no null


def test_a_reading_can_be_kept_in_a_row() -> None:
    found = of(FakeGpu(), FakeGpu(celsius=None))
    assert json.loads(json.dumps(found)) == found


def test_only_the_gpus_of_the_engine() -> None:
    gpus = [FakeGpu(name=name, uuid=f"GPU-{name}") for name in "abc"]
    assert [device["name"] for device in of(*gpus, visible="2,0")["devices"]] == ["c", "a"]
    assert of(*gpus, visible="")["kind"] == "cpu"


def test_reading_for_weeks_leaves_nothing_open() -> None:
    nvml = FakeNvml(FakeGpu(celsius=None), FakeGpu(lost=True))
    for _ in range(1000):
        health.read(nvml)
    assert nvml.open == 0


# Reasons to wait


@pytest.mark.parametrize(
    ("celsius", "waiting", "waits"),
    [
        (90, False, False),  # the limit may be reached
        (91, False, True),
        (90, True, True),
        (86, True, True),
        (85, True, False),
        (None, True, False),
    ],
)
@pytest.mark.parametrize("loaded", [True, False])
def test_too_hot(celsius: int | None, waiting: bool, waits: bool, loaded: bool) -> None:
    assert bool(health.why_wait(of(FakeGpu(celsius=celsius)), loaded, waiting)) is waits


def test_too_hot_says_value_limit_and_setting(settings: Any) -> None:
    settings.VBS_GPU_MAX_CELSIUS = 70
    assert health.why_wait(of(FakeGpu(), FakeGpu(celsius=77)), loaded=True) == (
        "GPU 1 (NVIDIA H200) is at 77 °C and the limit is 70 °C (VBS_GPU_MAX_CELSIUS): "
        "new work waits until it has cooled to 65 °C"
    )


@pytest.mark.parametrize(("used", "waits"), [(0, False), (70 * GIB, False), (70 * GIB + 1, True), (140 * GIB, True)])
def test_too_full_of_what_is_not_ours(used: int, waits: bool) -> None:
    reading = of(FakeGpu(), FakeGpu(used=used))
    assert bool(health.why_wait(reading, loaded=False)) is waits
    assert health.why_wait(reading, loaded=True) == ""


def test_too_full_says_value_limit_and_setting() -> None:
    assert health.why_wait(of(FakeGpu(used=105 * GIB)), loaded=False) == (
        "other programs use 75.0 % of the memory of GPU 0 (NVIDIA H200), 105.0 GiB of 140.0 GiB, and the limit is 50 % "
        "(VBS_GPU_MAX_USED_PERCENT): new work waits until they free it"
    )


def test_a_card_that_tells_nothing_holds_nothing_back() -> None:
    mute = FakeGpu(name=None, total=None, busy=None, celsius=None, power=None, limit=None)
    assert health.why_wait(of(mute), loaded=False, waiting=True) == ""
    assert "GPU 0 (of unknown name) is at 99 °C" in health.why_wait(of(FakeGpu(name=None, celsius=99)), loaded=False)


def test_a_processor_is_never_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=20 * GIB, available=0))
    assert health.why_wait(health.read(), loaded=False) == ""
    assert health.why_wait({}, loaded=False) == ""  # of a worker that has not read anything yet
