"""Finds processes by a mark that they inherit, checks whether they live, and ends them. Knows no Django.

The mark is in a process's environment, so it finds also a process that left its session or whose parent was killed.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterator

import psutil

KILL_SECONDS = 10.0  # until a process is gone that was ended by force
LOOK_SECONDS = 0.05
PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals) -> None:
    """Have the kernel send us this signal when our parent ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)


def alive(pid: int) -> bool:
    """False also for a zombie, whose parent may be slow to reap it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def marked(name: str) -> Iterator[tuple[psutil.Process, str]]:
    """Every process with this variable in its environment, and the value; but not this process and its ancestors."""
    ours = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    for process in psutil.process_iter():
        try:
            value = None if process.pid in ours else process.environ().get(name)
        except (psutil.Error, OSError):  # gone, a zombie, or of another user
            continue
        if value is not None:
            yield process, value


def family(pid: int) -> list[psutil.Process]:
    """The process, its descendants, and all others in its session (children whose parent is gone)."""
    members = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == pid or os.getsid(process.pid) == pid:
                members[process.pid] = process
                members |= {child.pid: child for child in process.children(recursive=True)}
    return list(members.values())


def end(
    processes: Collection[psutil.Process],
    grace: float,
    number: signal.Signals = signal.SIGTERM,
    kill_seconds: float = KILL_SECONDS,
) -> None:
    """Send them this signal, wait so long, then end them by force. With 0 seconds one of the two is left out.

    Reaps our own children. Returns as soon as none lives.
    """
    left = list(processes)
    for one, seconds in ((number, grace), (signal.SIGKILL, kill_seconds)):
        if not seconds:
            continue
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.send_signal(one)
        until = time.monotonic() + seconds
        while left and time.monotonic() < until:
            _, waited = psutil.wait_procs(left, timeout=LOOK_SECONDS)
            left = [process for process in waited if alive(process.pid)]
