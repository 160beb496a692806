"""The main memory that processes of ours may take: the machine's, or what is left of a container's limit. Bytes."""

from pathlib import Path

import psutil

GROUPS = Path("/sys/fs/cgroup")


def available(groups: Path | None = None) -> int:
    """What can be taken now: while others use some of it, that is not there."""
    free = psutil.virtual_memory().available
    for limit, used in _limits(groups or GROUPS):
        free = min(free, max(0, limit - used))
    return free


def total(groups: Path | None = None) -> int:
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _limits(groups or GROUPS))])


def _limits(groups: Path) -> list[tuple[int, int]]:
    """Of our control group, as a container sees its own: the limit, and what is used of it and cannot be dropped."""
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
