"""Engines that are frozen, killed, or end by themselves: found, and said how."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import cycle

import psutil
import pytest

from models_registry.engine import process_end, server
from models_registry.engine.client import Client, EngineDied, Limits
from models_registry.engine.spec import EngineKind
from models_registry.engine.watch import liveness
from models_registry.engine.watch.figures import Figures
from tests.models_registry.engine.started import calls, collect, gone, spec, until
from tests.models_registry.engine.test_server import leave


@pytest.fixture
def impatient(monkeypatch):
    for name, seconds in {"LOOK": 0.2, "HEALTH": 0.2, "SILENT": 1, "DEAF": 3, "STILL": 4}.items():
        monkeypatch.setattr(liveness, f"{name}_SECONDS", seconds)


def test_an_engine_that_is_frozen_is_found_and_ended(start, impatient):
    engine = start()

    async def run():
        async with contextlib.aclosing(Client(engine, Limits()).answers(calls("[[hang]]", "a"), 2)) as answers:
            async for _ in answers:
                os.kill(engine.pid, signal.SIGSTOP)

    with pytest.raises(
        EngineDied, match=r"it gave no sign of life for .* with 1 requests in flight .its process is sto"
    ):
        asyncio.run(run())
    assert not engine.alive()


def test_an_engine_that_is_slow_is_left_alone(start, impatient):
    (answer,) = collect(start(), ["[[delay-ms 2500]]"])
    assert answer.status == 200


@pytest.mark.parametrize(
    "how, verdict",
    [
        ({}, "it gave no sign of life for 1 s with 1 requests in flight (it does not compute)"),
        ({"busy": True}, ""),
        ({"busy": True, "heard": False}, "it answered nothing for 3 s, not even /health"),
        ({"busy": True, "figures": [0]}, "it computed without any step forward for 4 s with 1 requests in flight"),
        ({"busy": True, "figures": range(1000)}, ""),
    ],
)
def test_what_computes_is_left_alone_while_it_answers(start, impatient, monkeypatch, how, verdict):
    """vLLM says that it is well while the process that computes is frozen: what it takes of a processor tells."""
    engine = start()
    engine.spec = replace(engine.spec, kind=EngineKind.VLLM)
    busy, told = how.get("busy", False), cycle(how.get("figures", []))

    def signs(_):
        figures = Figures(1, 0, 0.5, 0, next(told)) if "figures" in how else None
        return liveness.Signs(False, how.get("heard", True), busy * time.monotonic(), figures)

    monkeypatch.setattr(liveness, "signs", signs)

    async def run():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await liveness.until_silent(engine, lambda: [1])

    asyncio.run(run())
    assert engine.verdict == verdict and engine.alive() is not bool(verdict)


def test_a_killed_engine_says_how(start):
    engine = start()
    os.kill(engine.pid, signal.SIGKILL)
    until(lambda: not engine.alive())
    assert engine.ending() == "killed by SIGKILL, which the system also sends when memory runs out"


def test_an_adopted_engine_that_is_killed_says_what_is_known(home, monkeypatch):
    """It is no child of ours, so nobody tells us its status."""
    monkeypatch.setattr(process_end, "memory_kills", lambda: 3)
    (pid,) = leave(home)
    engine = server.adopt(None, home)
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid))
    until(lambda: not psutil.pid_exists(pid))
    assert engine.ending() == (
        "an earlier worker started it, so its exit status is not known: the system has killed no process because of "
        "memory meanwhile; its log names no error, as if it was killed"
    )
    with engine.log.open("a") as log:
        log.write("(EngineCore pid=7) ERROR 11-27 10:00:00 [core.py:1] RuntimeError: CUDA error in /srv/vllm/core.py\n")
    monkeypatch.setattr(process_end, "memory_kills", lambda: None)
    assert engine.ending().endswith(
        "this system does not say whether memory ran out; the last error in its log is: RuntimeError: CUDA error in …"
    )
    monkeypatch.setattr(process_end, "kernel_words", lambda pid: f"python[{pid}]: segfault at 0")
    assert f"the kernel's log says: python[{pid}]: segfault at 0; the last error" in engine.ending()
    monkeypatch.setattr(process_end, "memory_kills", lambda: 4)
    assert engine.ending() == "the system killed it, or a process of it, because memory ran out"


def test_of_a_process_that_nobody_has_asked_about_the_status_is_told():
    """As in a container whose first process does not wait for those that it inherits."""
    code = "import os, time; pid = os.fork(); pid or os.kill(os.getpid(), 9); print(pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        try:
            pid = int(parent.stdout.readline())
            until(lambda: gone(pid))
            assert process_end.describe(process_end.left_status(pid), False).startswith("killed by SIGKILL")
            assert process_end.left_status(parent.pid) is None and process_end.left_status(2**22 + 1) is None
        finally:
            parent.kill()


def test_the_kernels_log_is_read_where_it_has_our_numbers(tmp_path):
    kmsg, proc = tmp_path / "kmsg", tmp_path / "proc"
    (proc / "self" / "ns").mkdir(parents=True)
    kmsg.write_text(
        "6,1,1,-;python[42]: segfault at 0 ip 0\n6,2,2,-;eth0 42 up\n"
        "3,3,3,-;Out of memory: Killed process 421 (python)\n"
    )
    assert process_end.kernel_words(42, kmsg, proc) == "", "of a namespace that is not known"
    (proc / "self" / "ns" / "pid").symlink_to("pid:[4026531836]")
    assert process_end.kernel_words(42, kmsg, proc) == "python[42]: segfault at 0 ip 0"
    assert process_end.kernel_words(421, kmsg, proc) == "Out of memory: Killed process 421 (python)"
    assert process_end.kernel_words(7, kmsg, proc) == process_end.kernel_words(42, tmp_path / "none", proc) == ""


def test_an_engine_that_ends_by_itself_says_what_its_log_says(start):
    engine = start(spec(**{"crash-after": 1}))
    with contextlib.suppress(EngineDied):
        collect(engine, ["a", "b"])
    until(lambda: not engine.alive())
    subprocess.run(["true"], check=True)  # another child does not take its status from us
    assert engine.ending() == "ended by itself with status 134, its log names no error"
