"""Where bodies wait until they are complete, and how much space all of them may take."""

import tempfile
from collections import Counter
from io import BytesIO
from typing import BinaryIO

from vbs.web.limits import KB, MB
from vbs.web.refusal import Refusal, try_later

CHUNK = 256 * KB  # bytes that the application gets at a time; a body of no more than this stays in memory


def spool(length: int | None) -> BinaryIO:
    """A file for a body of this length (None: unknown) until it is complete.

    A file on disk has no name, so that it goes with the process, and no buffer, so that a full disk shows at once.
    """
    if on_disk(length):
        return tempfile.TemporaryFile(buffering=0)
    return BytesIO()


def on_disk(length: int | None) -> bool:
    return length is None or length > CHUNK


class SpoolSpace:
    """The space that bodies take on disk, by address and in all.

    A body counts until its request is over: until then the application may still have a copy of it.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        self.by_address: Counter[str] = Counter()

    def refuses(self, address: str, size: int) -> Refusal | None:
        """The answer when there is no space for so many bytes more, else None."""
        if self.by_address[address] + size > self.most // 2:
            words = f"{address} sends too much at once: at most {self.most // 2 // MB} MB, half of VBS_MAX_SPOOL_MB."
            return try_later(429, "too_much_at_once", f"{words} Send fewer files at a time.")
        if self.used + size > self.most:
            words = f"The server receives too much at once: at most {self.most // MB} MB (VBS_MAX_SPOOL_MB)."
            return try_later(503, "too_much_at_once", f"{words} Try again in a few seconds.")
        return None

    def take(self, address: str, size: int) -> None:
        self.used += size
        self.by_address[address] += size

    def give_back(self, address: str, size: int) -> None:
        self.used -= size
        self.by_address[address] -= size
        if not self.by_address[address]:
            del self.by_address[address]
