"""Reads the new lines of a log file that others write, rotate and truncate."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LINE_BYTES = 64 * 1024  # a longer one is handed out in pieces


class LogFollower:
    """Starts at the present end of the file, which need not exist yet. Call `lines()` again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._partial = b""
        if path.exists():
            self._file = path.open("rb")
            self._file.seek(0, 2)

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def lines(self) -> Iterator[str]:
        """Complete lines since the last call."""
        if self._file is not None:
            yield from self._read(self._file)
        if self._replaced():
            self.close()
            try:
                self._file = self.path.open("rb")
            except FileNotFoundError:  # in the middle of a rotation
                return
            yield from self._read(self._file)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
        self._partial = b""

    def _replaced(self) -> bool:
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False
        return (
            self._file is None
            or there.st_ino != os.fstat(self._file.fileno()).st_ino
            or there.st_size < self._file.tell()
        )

    def _read(self, file: BinaryIO) -> Iterator[str]:
        while chunk := file.read(LINE_BYTES):
            *whole, self._partial = (self._partial + chunk).split(b"\n")
            if len(self._partial) > LINE_BYTES:
                whole.append(self._partial)
                self._partial = b""
            for line in whole:
                yield line.decode(errors="replace")
