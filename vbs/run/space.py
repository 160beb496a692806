"""The space on a disk: how much is free, what still fits, and the message when none is left. Knows neither Django nor
settings."""

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

RESERVE = 2**30  # bytes that stay free, for the database, the logs and what is being written already
LOW_PERCENT, LOW_BYTES = 10, 10 * 2**30  # of the disk that are free: little when it is less than both
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
WORDS = "no space is left on the disk"
REFUSAL = "The server's storage is full, and nothing was kept. Free some space and send it again."


def is_full(error: BaseException | None) -> bool:
    """Whether this error means that no space is left."""
    return isinstance(error, OSError) and error.errno in NO_SPACE


def fits(size: int, free: int) -> bool:
    """Whether the reserve stays free after so many more bytes."""
    return free - size >= RESERVE


@dataclass(frozen=True)
class Space:
    """The space of a disk, in bytes."""

    free: int
    total: int

    @property
    def is_full(self) -> bool:
        return not fits(0, self.free)

    @property
    def is_low(self) -> bool:
        """Whether the disk is full or may soon be."""
        return self.is_full or (self.free < LOW_BYTES and 100 * self.free < LOW_PERCENT * self.total)


def of(folder: Path) -> Space:
    """The space of the disk with this folder. Raises OSError."""
    disk = shutil.disk_usage(folder)
    return Space(disk.free, disk.total)
