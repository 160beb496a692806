"""What the disk holds of ours, and what of it can go now. Apps above add their own places and cleaners.

Everything here is bounded in time: a folder with millions of files is said to hold at least so much, and what was not
cleaned within one request is cleaned with the next.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import connection

from models_registry.catalog import remove
from models_registry.catalog.folders import ModelError
from vbs.run import space

STALE_SECONDS = 24 * 3600  # after so long nobody writes to a temporary file any more
LOOK_SECONDS, CLEAN_SECONDS = 2.0, 10.0


@dataclass(frozen=True)
class DiskUse:
    """files: how many there are. more: that there is more of it than could be counted, or cleaned, in time."""

    files: int = 0
    bytes: int = 0
    more: bool = False


@dataclass(frozen=True)
class DiskArea:
    name: str
    use: DiskUse


@dataclass(frozen=True)
class Cleaner:
    """look: what can go. clean: let it go, until a time on the monotonic clock; gives what has gone. usual: whether it
    is ticked on the page. permission: what it takes beside being let at the disk at all."""

    name: str
    words: str
    look: Callable[[], DiskUse]
    clean: Callable[[float], DiskUse]
    usual: bool = True
    permission: str = ""


@dataclass(frozen=True)
class DiskReport:
    free: int
    total: int
    places: tuple[DiskArea, ...]
    cleaners: tuple[tuple[Cleaner, DiskUse], ...]


def report() -> DiskReport:
    disk = space.of(settings.VBS_DATA_DIR)
    return DiskReport(
        free=disk.free,
        total=disk.total,
        places=tuple(place() for place in PLACES),
        cleaners=tuple((cleaner, cleaner.look()) for cleaner in CLEANERS),
    )


def clean(names: Collection[str]) -> dict[str, DiskUse]:
    """Let go what these cleaners find; what each has freed."""
    until = time.monotonic() + CLEAN_SECONDS
    return {cleaner.name: cleaner.clean(until) for cleaner in CLEANERS if cleaner.name in names}


# What there is


def measure(folder: Path) -> DiskUse:
    """All files below it. Follows no links."""
    until = time.monotonic() + LOOK_SECONDS
    files = size = 0
    for path in _walk(folder):
        with contextlib.suppress(OSError):
            files, size = files + 1, size + path.stat(follow_symlinks=False).st_size
        if time.monotonic() > until:
            return DiskUse(files, size, more=True)
    return DiskUse(files, size)


def _walk(folder: Path) -> Iterator["os.DirEntry[str]"]:
    waiting = [str(folder)]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    yield entry


def _database() -> DiskUse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        return DiskUse(bytes=cursor.fetchone()[0])


# What can go


def _files(found: Callable[[], Iterable[Path]]) -> tuple[Callable[[], DiskUse], Callable[[float], DiskUse]]:
    """To look at and to delete these files, none of which is a folder or a link."""

    def look() -> DiskUse:
        sizes = [size for _, size in _sized(found())]
        return DiskUse(len(sizes), sum(sizes))

    def clean(until: float) -> DiskUse:
        files = freed = 0
        for path, size in _sized(found()):
            if time.monotonic() > until:
                return DiskUse(files, freed, more=True)
            with contextlib.suppress(OSError):
                path.unlink()
                files, freed = files + 1, freed + size
        return DiskUse(files, freed)

    return look, clean


def _sized(paths: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    for path in paths:
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                yield path, path.stat().st_size


def _stale() -> Iterator[Path]:
    for path in Path(settings.TMP_DIR).glob("*"):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > STALE_SECONDS:
                yield path


def _rotated() -> Iterator[Path]:
    return (path for path in Path(settings.LOG_DIR).glob("*.log.*") if re.fullmatch(r"[\w-]+\.log\.\d+", path.name))


def _ended_engines() -> Iterator[Path]:
    for home in Path(settings.RUN_DIR).glob("*/"):
        yield from sorted(home.glob("engine-*.log"))[:-1]


def _leftovers() -> DiskUse:
    found = remove.leftovers()
    return DiskUse(sum(one.files for one in found), sum(one.bytes for one in found))


def _clean_leftovers(until: float) -> DiskUse:
    files = freed = 0
    for one in remove.leftovers():
        if time.monotonic() > until:
            return DiskUse(files, freed, more=True)
        with contextlib.suppress(ModelError):  # somebody has come to use it
            remove.clean(one)
            files, freed = files + one.files, freed + one.bytes
    return DiskUse(files, freed)


PLACES: list[Callable[[], DiskArea]] = [
    lambda: DiskArea("Models", measure(Path(settings.MODELS_DIR))),
    lambda: DiskArea("Database", _database()),
    lambda: DiskArea("Logs of programs", measure(Path(settings.LOG_DIR))),
    lambda: DiskArea("Engines: logs and sockets", measure(Path(settings.RUN_DIR))),
    lambda: DiskArea("Temporary files", measure(Path(settings.TMP_DIR))),
]
CLEANERS: list[Cleaner] = [
    Cleaner("temporary", "Temporary files that are older than a day", *_files(_stale)),
    Cleaner("logs", "Rotated logs of programs", *_files(_rotated)),
    Cleaner("engines", "Logs of engines that have ended", *_files(_ended_engines), usual=False),
    Cleaner(
        "models",
        "Folders of models that no model uses, and what demo models were made of",
        _leftovers,
        _clean_leftovers,
        usual=False,
        permission="models_registry.delete_model",
    ),
]
