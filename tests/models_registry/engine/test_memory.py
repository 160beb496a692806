"""What an engine has taken: of the machine's memory by real processes, of GPUs as the driver would say."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from models_registry.engine import defaults, server
from models_registry.engine.machine import gpus, memory
from models_registry.engine.spec import Address, EngineKind, EngineSpec, StartResult

MIB = 2**20


def test_of_the_machine(home):
    """The child of the engine counts as well: here it holds 60 MiB, which the kernel has really given."""
    program = "import sys; kept = b'x' * (60 * 2**20); print('ready', flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    with process:
        process.stdout.readline()
        engine = server.Engine(EngineSpec("m", "", kind=EngineKind.SCRIPTED), Address("", f"{home}/s"), 1, process.pid)
        assert 60 * MIB < memory.used_by(engine) < 160 * MIB
        process.stdin.close()
    assert memory.used_by(engine) is None, "it has ended"


def test_of_one_that_somebody_else_runs():
    assert memory.used_by(server.Engine(EngineSpec("m", "http://x/v1", kind=EngineKind.REMOTE), Address(""), 1)) is None


class Driver:
    """used: bytes of each GPU. running: for each GPU, pairs of a process and its bytes."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self, used, running, error=None):
        self.used, self.running, self.error, self.open = used, running, error, 0

    def nvmlInit(self):
        if self.error:
            raise self.NVMLError
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        return len(self.used)

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=2**40, used=self.used[handle])

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.running[handle]]


OURS, OTHER = os.getpid(), 1


@pytest.mark.parametrize(
    "driver, options, expected",
    [
        (Driver([90], [[(OURS, 70), (OTHER, 20)]]), {}, 70),
        (Driver([90, 80], [[(OTHER, 90)], [(OURS, 30)]]), {}, 30),
        (Driver([90, 80], [[(OURS, 40)], [(OURS, 50)]]), {"tensor-parallel-size": 2}, 50),
        (Driver([90, 95], [[], []]), {}, 90),
        (Driver([90, 95], [[], []]), {"tensor-parallel-size": 2}, 95),
        (Driver([90], [[(OURS, None)]]), {}, 90),
        (Driver([], []), {}, None),
        (Driver([90], [[]], error=True), {}, None),
    ],
    ids=["not of others", "second GPU", "fullest", "hidden", "hidden on two", "no number", "no GPU", "no driver"],
)
def test_of_a_gpu(monkeypatch, home, driver, options, expected):
    monkeypatch.setattr(defaults, "gpu_memory", lambda: 80 * 2**30)
    address = Address("", f"{home}/s")
    engine = server.Engine(EngineSpec("m", "/m"), address, 1, os.getpid(), started=StartResult(1.0, options))
    assert memory.used_by(engine, driver) == expected
    assert driver.open == 0


def test_without_the_drivers_package(monkeypatch, home):
    monkeypatch.setattr(defaults, "gpu_memory", lambda: 80 * 2**30)
    monkeypatch.setattr(gpus, "library", lambda: None)
    assert memory.used_by(server.Engine(EngineSpec("m", "/m"), Address("", f"{home}/s"), 1, os.getpid())) is None
