"""Which GPUs an engine may use, as its driver's library and the environment say. The library is a fake."""

import pytest

from models_registry.engine.machine import gpus
from tests.models_registry.nvml import GIB, FakeGpu, FakeNvml


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def gpu(gib: int) -> FakeGpu:
    return FakeGpu(total=gib * GIB)


@pytest.mark.parametrize("nvml", [None, FakeNvml(driver=False), FakeNvml()])
def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml | None) -> None:
    monkeypatch.setattr(gpus, "library", lambda: nvml)
    with gpus.usable() as (_, handles):
        assert handles == []
    assert gpus.memory() == 0
    assert nvml is None or nvml.open == 0


@pytest.mark.parametrize(
    ("visible", "gib"),
    [
        (None, [10, 20, 30]),
        ("1", [20]),
        ("2,0", [30, 10]),
        (" 2 , 1", [30, 20]),
        ("1,9,0", [20]),  # up to the first that there is not
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("GPU-20", [20]),
        ("GPU-30bb,0", [30, 10]),
        ("GPU-", []),  # could be any
        ("MIG-7", [7]),
        ("MIG-8", []),
    ],
)
def test_the_gpus_that_cuda_is_told_of(visible: str | None, gib: list[int]) -> None:
    mig = FakeGpu(total=7 * GIB, uuid="MIG-7")
    nvml = FakeNvml(*(FakeGpu(total=gib * GIB, uuid=f"GPU-{gib}bb") for gib in (10, 20, 30)), parts=[mig])
    with gpus.usable(nvml, visible) as (_, handles):
        assert [handle.total // GIB for handle in handles] == gib
    assert nvml.open == 0
    assert gpus.memory(nvml, visible) == (gib[0] * GIB if gib else 0)


def test_the_variable_that_the_engine_gets_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with gpus.usable(FakeNvml(gpu(10), gpu(20))) as (_, handles):
        assert [handle.total for handle in handles] == [20 * GIB]


def test_a_gpu_that_has_fallen_off_its_bus_keeps_its_number() -> None:
    nvml = FakeNvml(FakeGpu(lost=True), gpu(20))
    with gpus.usable(nvml) as (_, handles):
        assert [handle.total for handle in handles] == [20 * GIB]
    with gpus.usable(nvml, "1") as (_, handles):
        assert [handle.total for handle in handles] == [20 * GIB]
    with gpus.usable(nvml, "0,1") as (_, handles):
        assert handles == []


def test_the_library_is_closed_after_an_error_too() -> None:
    nvml = FakeNvml(gpu(10))
    with pytest.raises(ZeroDivisionError), gpus.usable(nvml):
        assert nvml.open == 1
        raise ZeroDivisionError
    assert nvml.open == 0
