"""How an engine's process ended, in words; and whether the system has killed for want of memory meanwhile.

Only a parent is told with which status a process ended. Of an engine that an earlier worker had started the rest is
looked at: the process itself, if nobody has taken its status yet, the kernel's log, and the end of the engine's own.
"""

import os
import re
import signal
from pathlib import Path

from models_registry.engine.reasons import last_error
from models_registry.engine.refusals import clean
from vbs.redaction import hide_locations

_CGROUPS = Path("/sys/fs/cgroup")
_FIRST_PIDS = "pid:[4026531836]"  # the namespace whose numbers the kernel's log has
_EXIT_CODE = 52  # the field of /proc/PID/stat
MOST_KERNEL = 4 * 2**20  # bytes of the kernel's log
MOST_WORDS = 300  # characters of what a log says


def words(status: int | None, killed_for_memory: bool, log: Path | None = None, pid: int | None = None) -> str:
    """status: as `waitpid` tells it, None where nobody could (an adopted engine is not our child).

    killed_for_memory: the system has killed for want of memory since we know the engine. Then that is why: also when
    it was a child of the engine, without which the engine then ended by itself. log: the engine's.
    """
    if killed_for_memory:
        return "the system killed it or a process of it for want of memory"
    error = clean(hide_locations(last_error(log)) if log else "", MOST_WORDS)
    if status is None:
        return _unseen(error, kernel_words(pid) if pid else "")
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"killed by {name}" + (", which the system also sends for want of memory" if name == "SIGKILL" else "")
    said = f"the last error in its log is: {error}" if error else "its log names no error"
    return f"ended by itself with status {os.waitstatus_to_exitcode(status)}, {said}"


def _unseen(error: str, kernel: str) -> str:
    """What is known all the same."""
    known = [f"the kernel's log says: {kernel}"] if kernel else []
    if not kernel:
        told = memory_kills() is not None
        known += [
            "the system has killed nothing for want of memory meanwhile"
            if told
            else "whether for want of memory is not told here"
        ]
    known += [f"the last error in its log is: {error}" if error else "its log names no error, as if it was killed"]
    return f"how is not known, for it was started by an earlier worker: {'; '.join(known)}"


def left_status(pid: int, proc: Path = Path("/proc")) -> int | None:
    """The status of a process that has ended and that its parent has not asked about yet; None where it is not told."""
    fields = _read(proc / str(pid) / "stat").rpartition(")")[2].split()
    code = int(fields[_EXIT_CODE - 3]) if len(fields) > _EXIT_CODE - 3 and fields[0] == "Z" else 0
    return code or None  # 0 is what is shown to whoever may not know, too


def kernel_words(pid: int, kmsg: Path = Path("/dev/kmsg"), proc: Path = Path("/proc")) -> str:
    """The last that the kernel's log says of the end of this process; empty where it says nothing, or not to us."""
    try:
        if str((proc / "self/ns/pid").readlink()) != _FIRST_PIDS:
            return ""
        descriptor = os.open(kmsg, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    text, pattern = "", re.compile(rf"[Kk]illed process {pid} |\[{pid}\].*(segfault|general protection|trap|error)")
    try:
        for _ in range(MOST_KERNEL // 100):
            try:
                if not (record := os.read(descriptor, 8192)):
                    break
            except BrokenPipeError:  # it was overwritten meanwhile
                continue
            for line in record.decode(errors="replace").splitlines():
                text = line.partition(";")[2] or line if pattern.search(line) else text
    except OSError:  # nothing more is there
        pass
    finally:
        os.close(descriptor)
    return clean(hide_locations(text), MOST_WORDS)


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
