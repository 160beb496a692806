"""The main memory that our processes may use, in bytes: the machine's, or that of a container's limit."""

from pathlib import Path

import psutil

GROUPS = Path("/sys/fs/cgroup")


def available(groups: Path | None = None) -> int:
    """Bytes that are free now."""
    free = psutil.virtual_memory().available
    for limit, used in _limits(groups or GROUPS):
        free = min(free, max(0, limit - used))
    return free


def total(groups: Path | None = None) -> int:
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _limits(groups or GROUPS))])


def _limits(groups: Path) -> list[tuple[int, int]]:
    """For each limit of our control group: the limit, and how much of it is used and cannot be dropped."""
    for limit, used, name in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = (groups / limit).read_text().strip()
            if most.isdecimal():
                stat = dict(line.split() for line in (groups / used).with_name("memory.stat").read_text().splitlines())
                return [(int(most), int((groups / used).read_text()) - int(stat.get(name, 0)))]
        except (OSError, ValueError):
            continue
    return []
