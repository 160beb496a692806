"""Write a file that is there whole or not at all, whatever happens on the way."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class NotAFile(Exception):
    """The path cannot become a file; the message says why."""


def check(path: Path) -> None:
    """Raises NotAFile for what must not be replaced by a file: a folder, a device, a pipe."""
    if path.exists() and not path.is_file():
        raise NotAFile(f"{path} is there and is not a file.")
    if not path.parent.is_dir():
        raise NotAFile(f"{path.parent} is not a folder: make it first.")


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` at the end of the block, or never. Raises NotAFile, OSError."""
    check(path)
    part = path.with_name(f".vbs-{secrets.token_hex(6)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
