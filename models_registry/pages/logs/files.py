"""The ends of log files, as lines that are safe to show. Which file that is never comes from a request or a row alone.

A log of an engine may hold what users have asked, and an error of theirs anything at all: escapes are taken out or made
visible, keys masked, long lines clipped.
"""

import os
import re
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from django.conf import settings

from models_registry.models import Worker
from vbs.logs import mask
from vbs.pages.plain import visible

PROGRAMS = ("web", "io", "gpu", "supervisord")
LINES, LINE_CHARACTERS, TAIL_BYTES = 200, 1000, 512 * 1024

_HOME = re.compile(r"[a-z0-9-]{1,20}")  # as VBS_WORKER_NAME may be
_COLOURS = re.compile(r"\x1b\[[0-9;]*[mK]")
_LEAST_SECRET = 6  # characters; a shorter one is found everywhere


@dataclass(frozen=True)
class Tail:
    """lines: the last ones. bytes: of the whole file. cut: that it has more lines."""

    lines: tuple[str, ...]
    bytes: int
    cut: bool


def of_program(name: str) -> Path | None:
    """None for a name that is none of PROGRAMS."""
    return Path(settings.LOG_DIR) / f"{name}.log" if name in PROGRAMS else None


def of_engine(worker: Worker) -> Path | None:
    """The newest log of its engine; None when there is none on this machine, in the folder that engines write to."""
    parent, _, name = worker.home.rpartition("/")
    if worker.hostname != socket.gethostname() or parent != str(settings.RUN_DIR) or not _HOME.fullmatch(name):
        return None
    folder = Path(settings.RUN_DIR) / name
    if folder.is_symlink():
        return None
    return max(folder.glob("engine-*.log"), key=lambda path: path.name, default=None)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A plain file only, and not by a link. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path.name} is not a file")
        yield file


def tail(path: Path) -> Tail:
    """Raises OSError."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - TAIL_BYTES))
        data = file.read(TAIL_BYTES)
    lines = data.split(b"\n")
    if size > TAIL_BYTES:
        lines = lines[1:] or lines  # the first one has lost its beginning
    if lines and not lines[-1]:
        lines.pop()
    shown = lines[-LINES:]
    return Tail(tuple(map(clean, shown)), size, cut=size > TAIL_BYTES or len(shown) < len(lines))


def clean(line: bytes, most: int = LINE_CHARACTERS) -> str:
    """As it is shown. Of a line that was written over and over, what stood there last."""
    text = line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")
    text = visible(mask(hide(_COLOURS.sub("", text[: 20 * most]).replace("\t", "    "))))
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more characters)"


def hide(text: str) -> str:
    """Without the secrets that vbs itself was given."""
    for secret in (settings.HF_TOKEN, settings.VBS_REMOTE_KEY, settings.SECRET_KEY, _password()):
        if len(secret) >= _LEAST_SECRET:
            text = text.replace(secret, "***")
    return text


def _password() -> str:
    return str(settings.DATABASES["default"].get("PASSWORD") or "")


def masked(data: bytes) -> bytes:
    """For a file that is handed out: as it is, without keys."""
    return hide(mask(data.decode(errors="replace"))).encode()
