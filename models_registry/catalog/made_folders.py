"""Makes folders of models under MODELS_DIR: each appears complete, or not at all.

A folder is made in MODELS_DIR/.import, under a lock that its writer holds until it ends, and is then renamed. A file in
it says what it was made from, so that it is found again if the process is killed before the model is registered.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.conf import settings

from models_registry.catalog.folders import ModelError
from models_registry.engine.environment import minimal

ORIGIN = ".vbs-origin.json"

Progress = Callable[[str], None]
Make = Callable[[Path, Path, int, Progress], None]


def path_of(name: str) -> Path:
    return Path(settings.MODELS_DIR) / quote(name, safe="")


def is_ours(folder: Path) -> bool:
    return folder.parent == settings.MODELS_DIR and (folder / ORIGIN).is_file()


@contextmanager
def lock(folder: Path) -> Iterator[int]:
    """Lock a folder, so that one process at a time makes or removes it. Yields the lock's descriptor, which a child
    process can hold too."""
    place = _place()
    _sweep(place)
    handle = _try_lock(place, folder.name)
    if handle is None:
        raise ModelError(f"another process is making or removing {folder} now: try again when it has ended")
    try:
        yield handle
    finally:
        os.close(handle)


def make(target: Path, source: Path, maker: Make, held: int, on_progress: Progress) -> None:
    """Make a folder from `source`, unless it has been made from the same source before. held: its lock."""
    origin = _fingerprint(source)
    if target.exists():
        if not is_ours(target):
            raise ModelError(f"{target} is in the way: move it, or add that folder itself")
        if _origin(target) == origin:
            on_progress(f"{target} is there already")
            return
        discard(target)
    work = _place() / target.name
    try:
        work.mkdir()
        maker(source, work, held, on_progress)
        (work / ORIGIN).write_text(json.dumps(origin))
        _sync(work)
        work.rename(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise ModelError(f"{target} could not be made: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def discard(folder: Path) -> None:
    """Remove a folder at once; the caller holds its lock. After a kill, the next `lock` removes the rest."""
    old = _place() / f"{folder.name}%old"
    shutil.rmtree(old, ignore_errors=True)
    try:
        folder.rename(old)
    except OSError as error:
        raise ModelError(f"{folder} could not be removed: {error}") from error
    shutil.rmtree(old, ignore_errors=True)


def copied(source: Path, work: Path, held: int, on_progress: Progress) -> None:
    on_progress(f"copying {source}")
    shutil.copytree(source, work, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git", ORIGIN))


def converted(source: Path, work: Path, held: int, on_progress: Progress) -> None:
    """Convert in a child process, which holds the lock too: if we are killed, the folder stays locked until it ends."""
    command = [sys.executable, "-m", "models_registry.catalog.convert_gguf", str(source), str(work)]
    environment = minimal(TQDM_DISABLE="1")
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            cwd=settings.BASE_DIR,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=[held],
            text=True,
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                on_progress(line.strip())
            status = process.wait()
        finally:
            process.kill()
            process.wait()
        if status:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            why = (
                f"killed by signal {-status}; is there enough memory?"
                if status < 0
                else (said or ["no reason given"])[-1]
            )
            raise ModelError(f"{source} could not be converted: {why}")


def _place() -> Path:
    place = Path(settings.MODELS_DIR) / ".import"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"{place} cannot be made: {error}") from error
    return place


def _try_lock(place: Path, name: str) -> int | None:
    try:
        handle = os.open(place / f"{name}%lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ModelError(f"{name} cannot be locked: {error}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _sweep(place: Path) -> None:
    """Remove what killed processes have left: folders whose lock nobody holds."""
    for folder in place.iterdir():
        if folder.is_dir() and (handle := _try_lock(place, folder.name.removesuffix("%old"))) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)


def _fingerprint(source: Path) -> dict[str, Any]:
    files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
    statuses = [path.stat() for path in files]
    return {
        "source": str(source),
        "bytes": sum(status.st_size for status in statuses),
        "modified": max((status.st_mtime_ns for status in statuses), default=0),
    }


def _origin(folder: Path) -> object:
    try:
        return json.loads((folder / ORIGIN).read_bytes())
    except (OSError, ValueError):
        return None


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            _sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
