"""Says how an engine's process ended, and whether the system has killed processes because memory ran out.

Only the parent of a process learns its exit status. For an engine that an earlier worker started, other sources are
read: the zombie process, if there is one, the kernel's log, and the end of the engine's own log.
"""

import os
import re
import signal
from pathlib import Path

from models_registry.engine.error_bodies import clean
from models_registry.engine.log_reasons import last_error
from vbs.redaction import hide_locations

_CGROUPS = Path("/sys/fs/cgroup")
_FIRST_PIDS = "pid:[4026531836]"  # the namespace whose process ids the kernel's log uses
_EXIT_CODE = 52  # the field of /proc/PID/stat
MOST_KERNEL = 4 * 2**20  # bytes of the kernel's log
MOST_WORDS = 300  # characters that are quoted from a log


def describe(status: int | None, killed_for_memory: bool, log: Path | None = None, pid: int | None = None) -> str:
    """How the process ended, for a message.

    status: as `waitpid` returns it; None for an adopted engine, which is not our child. killed_for_memory: since the
    engine runs, the system has killed a process because memory ran out; that counts as the cause, because an engine
    also ends when the system kills one of its children. log: the engine's log.
    """
    if killed_for_memory:
        return "the system killed it, or a process of it, because memory ran out"
    error = clean(hide_locations(last_error(log)) if log else "", MOST_WORDS)
    if status is None:
        return _unseen(error, kernel_words(pid) if pid else "")
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"killed by {name}" + (", which the system also sends when memory runs out" if name == "SIGKILL" else "")
    said = f"the last error in its log is: {error}" if error else "its log names no error"
    return f"ended by itself with status {os.waitstatus_to_exitcode(status)}, {said}"


def _unseen(error: str, kernel: str) -> str:
    """What is known without the exit status."""
    known = [f"the kernel's log says: {kernel}"] if kernel else []
    if not kernel:
        told = memory_kills() is not None
        known += [
            "the system has killed no process because of memory meanwhile"
            if told
            else "this system does not say whether memory ran out"
        ]
    known += [f"the last error in its log is: {error}" if error else "its log names no error, as if it was killed"]
    return f"an earlier worker started it, so its exit status is not known: {'; '.join(known)}"


def left_status(pid: int, proc: Path = Path("/proc")) -> int | None:
    """The exit status of a zombie, whose parent has not asked for it yet; None where the system does not show it."""
    fields = _read(proc / str(pid) / "stat").rpartition(")")[2].split()
    code = int(fields[_EXIT_CODE - 3]) if len(fields) > _EXIT_CODE - 3 and fields[0] == "Z" else 0
    return code or None  # the system also shows 0 to processes that may not know it


def kernel_words(pid: int, kmsg: Path = Path("/dev/kmsg"), proc: Path = Path("/proc")) -> str:
    """The last line of the kernel's log about the end of this process; empty if there is none, or it is not for us."""
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
            except BrokenPipeError:  # the record was overwritten meanwhile
                continue
            for line in record.decode(errors="replace").splitlines():
                text = line.partition(";")[2] or line if pattern.search(line) else text
    except OSError:  # there are no more records
        pass
    finally:
        os.close(descriptor)
    return clean(hide_locations(text), MOST_WORDS)


def memory_kills(proc: Path = Path("/proc"), cgroups: Path = _CGROUPS) -> int | None:
    """How many processes of our control group, or else of the machine, were killed because memory ran out; None where
    the kernel does not say."""
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
