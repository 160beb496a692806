"""Processes that a stack has left behind: found by the mark that all its processes inherit, and ended.

A process that overwrites its environment (PostgreSQL's do) is not found here; vbs.run.postgres knows its own.
"""

import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

import psutil

from vbs.run import postgres

MARK = "VBS_INSTANCE"  # =<data folder>, in the environment of every process of a stack
KEEP_MARK = {"SPT_NOENV": "1"}  # setproctitle would write its titles over the environment
SUPERVISOR_SECONDS = 14.0


def mark(data: Path) -> dict[str, str]:
    return KEEP_MARK | {MARK: str(data.resolve())}


def find(data: Path) -> list[psutil.Process]:
    """All that carry the mark of this data folder, except ourselves and our ancestors."""
    ours = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in ours and process.environ().get(MARK) == str(data.resolve()):
                found.append(process)
        except (psutil.Error, OSError):  # gone, a zombie, or of another user
            continue
    return found


def end(data: Path, processes: Collection[psutil.Process], patience: float) -> None:
    """End them: a supervisor in its own good order, others after `patience` seconds by force, the database safely."""
    database = postgres.pids(data)
    supervisors = [process for process in processes if "vbs.run.supervise" in _command(process)]
    others = [process for process in processes if process not in supervisors and process.pid not in database]
    _end(supervisors, SUPERVISOR_SECONDS)
    _end(others, patience)
    if any(process.pid in database for process in processes):
        postgres.stop(data)


def _end(processes: Collection[psutil.Process], patience: float) -> None:
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 2.0)):
        if not seconds:
            continue
        for process in processes:
            try:
                process.send_signal(number)
            except psutil.Error:
                continue
        deadline = time.monotonic() + seconds
        while any(map(_alive, processes)) and time.monotonic() < deadline:
            time.sleep(0.05)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
