"""The ends of log files, as lines that are safe to show. The path of a file never comes from a request or a row alone.

An engine's log may hold what users asked for, and an error may hold anything: escape sequences are removed or made
visible, keys are masked, and long lines are clipped.
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

from models_registry import remote_keys
from models_registry.models import Worker
from vbs.logs import mask
from vbs.pages.plain import visible
from vbs.timed_cache import Kept

PROGRAMS = ("web", "io", "gpu", "supervisord")
LINES, LINE_CHARACTERS, TAIL_BYTES = 200, 1000, 512 * 1024

_HOME = re.compile(r"[a-z0-9-]{1,20}")  # as VBS_WORKER_NAME may be
_COLOURS = re.compile(r"\x1b\[[0-9;]*[mK]")
_LEAST_SECRET = 6  # characters; a shorter one is found everywhere
FRESH_SECONDS = 5.0  # for which the keys that were read are those that are hidden
_remote_keys: Kept[list[str]] = Kept()


@dataclass(frozen=True)
class LogTail:
    """lines: the last ones. bytes: the size of the file. cut: it has more lines than these."""

    lines: tuple[str, ...]
    bytes: int
    cut: bool


def of_program(name: str) -> Path | None:
    """The log of one of PROGRAMS; None for another name."""
    return Path(settings.LOG_DIR) / f"{name}.log" if name in PROGRAMS else None


def of_engine(worker: Worker) -> Path | None:
    """The engine's newest log in the folder where engines write; None when this machine has none."""
    parent, _, name = worker.home.rpartition("/")
    if worker.hostname != socket.gethostname() or parent != str(settings.RUN_DIR) or not _HOME.fullmatch(name):
        return None
    folder = Path(settings.RUN_DIR) / name
    if folder.is_symlink():
        return None
    return max(folder.glob("engine-*.log"), key=lambda path: path.name, default=None)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Opens a plain file, but no link. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path.name} is not a file")
        yield file


def tail(path: Path) -> LogTail:
    """Raises OSError."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - TAIL_BYTES))
        data = file.read(TAIL_BYTES)
    lines = data.split(b"\n")
    if size > TAIL_BYTES:
        lines = lines[1:] or lines  # the first line was cut
    if lines and not lines[-1]:
        lines.pop()
    shown = lines[-LINES:]
    return LogTail(tuple(map(clean, shown)), size, cut=size > TAIL_BYTES or len(shown) < len(lines))


def clean(line: bytes, most: int = LINE_CHARACTERS) -> str:
    """The line as it is shown. When a line was overwritten repeatedly, the last text counts."""
    text = line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")
    text = visible(mask(hide(_COLOURS.sub("", text[: 20 * most]).replace("\t", "    "))))
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more characters)"


def hide(text: str) -> str:
    """The text without the secrets in vbs's own settings, and without the keys of remote models."""
    remote = _remote_keys.get("", FRESH_SECONDS, remote_keys.every)
    for secret in (settings.HF_TOKEN, *remote, settings.SECRET_KEY, _password()):
        if len(secret) >= _LEAST_SECRET:
            text = text.replace(secret, "***")
    return text


def _password() -> str:
    return str(settings.DATABASES["default"].get("PASSWORD") or "")


def masked(data: bytes) -> bytes:
    """A piece of a file for download: unchanged, but without keys."""
    return hide(mask(data.decode(errors="replace"))).encode()
