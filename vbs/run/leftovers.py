"""Finds the processes that a stack left behind, by the mark that all its processes inherit, and ends them.

A process that overwrites its environment, as PostgreSQL's do, is not found here; vbs.run.postgres finds those.
"""

from collections.abc import Collection
from pathlib import Path

import psutil

from vbs.run import postgres, processes

MARK = "VBS_INSTANCE"  # =<data folder>, in the environment of every process of a stack
KEEP_MARK = {"SPT_NOENV": "1"}  # setproctitle would write its titles over the environment
SUPERVISOR_SECONDS = 14.0
KILL_SECONDS = 2.0


def mark(data: Path) -> dict[str, str]:
    return KEEP_MARK | {MARK: str(data.resolve())}


def find(data: Path) -> list[psutil.Process]:
    """All processes with the mark of this data folder, except this one and its ancestors."""
    folder = str(data.resolve())
    return [process for process, marked in processes.marked(MARK) if marked == folder]


def end(data: Path, left: Collection[psutil.Process], patience: float) -> None:
    """End them: a supervisor in its own order, the others by force after `patience` seconds, and the database
    safely."""
    database = postgres.pids(data)
    supervisors = [process for process in left if "vbs.run.supervise" in _command(process)]
    others = [process for process in left if process not in supervisors and process.pid not in database]
    processes.end(supervisors, SUPERVISOR_SECONDS, kill_seconds=KILL_SECONDS)
    processes.end(others, patience, kill_seconds=KILL_SECONDS)
    if any(process.pid in database for process in left):
        postgres.stop(data)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
