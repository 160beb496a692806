"""How an engine's process ended, in words; and whether the system has killed for want of memory meanwhile."""

import os
import re
import signal
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def words(status: int | None, killed_for_memory: bool) -> str:
    """status: as `waitpid` tells it, None where nobody could (an adopted engine is not our child).

    killed_for_memory: the system has killed for want of memory since the engine started. Then that is why: also when
    it was a child of the engine, without which the engine then ended by itself.
    """
    if killed_for_memory:
        return "the system killed it or a process of it for want of memory"
    if status is None:
        return "nothing says why"
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"killed by {name}" + (", which the system also sends for want of memory" if name == "SIGKILL" else "")
    return f"ended by itself with status {os.waitstatus_to_exitcode(status)}, its log says why"


def memory_kills(proc: Path = Path("/proc"), cgroups: Path = _CGROUPS) -> int | None:
    """Processes of our control group that were killed for want of memory so far, else of the machine; None where the
    kernel does not tell."""
    places: list[tuple[Path, str]] = []
    for line in _read(proc / "self/cgroup").splitlines():
        number, kinds, path = line.split(":", 2)
        path = path.lstrip("/")
        if number == "0":
            places += [(cgroups / path / "memory.events", "oom_kill"), (cgroups / "memory.events", "oom_kill")]
        elif "memory" in kinds.split(","):
            places += [(cgroups / "memory" / path / "memory.oom_control", "oom_kill")]
    for place, name in [*places, (proc / "vmstat", "oom_kill")]:
        if found := re.search(rf"^{name} (\d+)$", _read(place), re.MULTILINE):
            return int(found[1])
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
