"""Processes are found by their mark, seen to live, and ended: asked first, then by force."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from vbs.run import processes

MARK = "VBS_TEST_OF_PROCESSES"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(300)"


@pytest.fixture
def start():
    started = []

    def run(program="import time; print(flush=True); time.sleep(300)", **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, env=os.environ | environment
        )
        started.append(process)
        process.stdout.readline()
        return psutil.Process(process.pid)

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_who_carries_a_mark(start, tmp_path):
    ours, _other = start(**{MARK: str(tmp_path)}), start()
    assert list(processes.marked(MARK)) == [(ours, str(tmp_path))]


def test_we_are_not_found_ourselves(start):
    program = f"""
import os
from vbs.run import processes
print([one.pid for one, _ in processes.marked({MARK!r})])
"""
    child = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {MARK: "x"}, capture_output=True, text=True, check=True
    )
    assert child.stdout == "[]\n"


def test_who_is_asked_ends_at_once_and_is_reaped(start):
    process = start()
    began = time.monotonic()
    processes.end([process], grace=60)
    assert time.monotonic() - began < 30 and not psutil.pid_exists(process.pid)


@pytest.mark.parametrize("frozen", [False, True])
def test_who_does_not_listen_is_ended_by_force(start, frozen):
    process, other = start(STUBBORN), start()
    if frozen:
        process.suspend()
    processes.end([process, other], grace=0.2)
    assert not processes.alive(process.pid) and not processes.alive(other.pid)


def test_no_force_where_none_is_wanted(start):
    process = start(STUBBORN)
    processes.end([process], grace=0.2, kill_seconds=0)
    assert processes.alive(process.pid)
    processes.end([process], grace=60, number=signal.SIGINT, kill_seconds=0)
    assert not processes.alive(process.pid)


def test_a_zombie_does_not_live(start):
    process = start()
    os.kill(process.pid, signal.SIGKILL)
    until = time.monotonic() + 20
    while process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert not processes.alive(process.pid)
    processes.end([process], grace=60)  # which is nothing to wait for
    assert not processes.alive(process.pid)
