"""The processes of engines: who belongs to one, and how all of them are ended.

Each carries the folder of its engine in its environment, so that none is ever lost: neither one that has left its
session, nor one whose worker was killed.
"""

import contextlib
import os
import signal
from collections.abc import Collection
from pathlib import Path

import psutil

MARK = "VBS_ENGINE_HOME"
KILL_SECONDS = 10


def family(pid: int) -> list[psutil.Process]:
    """The process, its descendants, and whoever else is in its session (children whose parent is gone)."""
    members = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == pid or os.getsid(process.pid) == pid:
                members[process.pid] = process
                members |= {child.pid: child for child in process.children(recursive=True)}
    return list(members.values())


def end(processes: list[psutil.Process], grace: float) -> None:
    for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, KILL_SECONDS)):
        if wait:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            _, processes = psutil.wait_procs(processes, timeout=wait)


def end_leftovers(folder: Path, spare: Collection[Path] = ()) -> int:
    """End every process of an engine of this folder or of one below it, whoever started it. Says how many there were.

    spare: folders of the engines that stay.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mark = Path(process.environ().get(MARK, "/"))
            if mark.is_relative_to(folder) and mark not in spare:
                found += family(process.pid)
    end(found, grace=0)
    return len(found)
