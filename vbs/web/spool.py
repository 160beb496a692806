"""Where bodies wait until they are complete, and how much of them there may be."""

import tempfile
from collections import Counter
from io import BytesIO
from typing import BinaryIO

from vbs.web.limits import KB, MB
from vbs.web.refusal import Refusal, later

CHUNK = 256 * KB  # what the application gets at a time; a smaller body is never on disk


def spool(length: int | None) -> BinaryIO:
    """Where a body of this length (None: unknown) waits until it is complete.

    A file has no name, so that it is gone with the process, and no buffer, so that a full disk shows at once.
    """
    if on_disk(length):
        return tempfile.TemporaryFile(buffering=0)
    return BytesIO()


def on_disk(length: int | None) -> bool:
    return length is None or length > CHUNK


class Room:
    """What bodies have on disk, all together and by address. A body counts until its request is over: by then the
    application has copied it, and used the copy."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        self.by_address: Counter[str] = Counter()

    def refuses(self, address: str, size: int) -> Refusal | None:
        """Why there is no room for so many bytes more, if there is none."""
        if self.by_address[address] + size > self.most // 2:
            words = f"Too many bytes from {address} wait at once: at most {self.most // 2 // MB} MB, half of what"
            return later(429, "too_much_at_once", f"{words} VBS_MAX_SPOOL_MB allows. Send fewer files at a time.")
        if self.used + size > self.most:
            words = f"Too many uploads at once: {self.most // MB} MB (VBS_MAX_SPOOL_MB) are waiting already."
            return later(503, "too_much_at_once", f"{words} Try again in a few seconds.")
        return None

    def take(self, address: str, size: int) -> None:
        self.used += size
        self.by_address[address] += size

    def give_back(self, address: str, size: int) -> None:
        self.used -= size
        self.by_address[address] -= size
        if not self.by_address[address]:
            del self.by_address[address]
