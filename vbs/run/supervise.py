"""supervisord, tied to one data folder: `python -m vbs.run.supervise PARENT_PID CONFIG_FILE` (see vbs.run.stack).

It differs from the `supervisord` command. It stops everything when its parent dies. When a program dies, its whole
process group is ended before the program is started again, within a few seconds. When all programs are stopped, it ends
what they left.
"""

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from supervisor import events
from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ServerOptions
from supervisor.supervisord import Supervisor

from vbs.run import descriptors, leftovers, processes

LONGEST_PAUSE = 5.0  # supervisord alone would wait a second longer each time
PR_SET_CHILD_SUBREAPER = 36


class Keeper(Supervisor):
    def runforever(self) -> None:
        events.subscribe(events.ProcessStateBackoffEvent, shorten_pause)
        for ended in (events.ProcessStateExitedEvent, events.ProcessStateBackoffEvent, events.ProcessStateStoppedEvent):
            events.subscribe(ended, end_group)
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (it complains there of a full disk, and would die of that)
        super().runforever()


def shorten_pause(event: Any) -> None:
    event.process.delay = min(event.process.delay, time.time() + LONGEST_PAUSE)


def end_group(event: Any) -> None:
    """Kill what a dead program left in its process group: two generations of a program must never work at the same
    time."""
    if event.process.pid:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(event.process.pid, signal.SIGKILL)


def end_leftovers() -> None:
    data = Path(os.environ[leftovers.MARK])
    leftovers.end(data, {*leftovers.find(data), *psutil.Process().children(recursive=True)}, patience=0.0)


def become_keeper(parent: int) -> None:
    processes.end_with_parent(signal.SIGTERM)
    # Orphans come to us: reaped where pid 1 is no init, and never lost.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:  # it was dead before we asked to be told
        sys.exit(f"The process {parent} that wanted a supervisor is gone.")


def main(parent: int, config: Path) -> None:
    become_keeper(parent)
    descriptors.raise_limit()  # which all programs inherit
    os.umask(0o077)  # of the logs, which it writes; the programs have their own
    options = ServerOptions()
    options.realize(["--configuration", str(config)])
    options.first, options.test = True, False
    try:
        Keeper(options).main()
    except asyncore.ExitNow:
        pass
    finally:
        end_leftovers()
    options.close_httpservers()
    options.close_logger()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
