"""Keeps the data folder private: no other user of the machine reads prompts, answers, logs or keys in it.

Other users may only pass through the folder itself: when root runs vbs, PostgreSQL is another user and has its own
folder there. What is not secret (models, static files) stays as it is. Every start closes the folders, so that those of
an earlier version, or a copy that lost its modes, are corrected.
"""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

FOLDERS = ("files", "logs", "run", "tmp")
MADE = ("files", "tmp")  # by every process; the others by the programs that need them
LOOK, ALL = 0o066, 0o077  # what is taken from others: reading and writing; passing through as well


def close(data: Path, made: Sequence[str] = MADE) -> None:
    """Make these folders if they are missing, and close them. `readable` reports those that belong to somebody else."""
    data.mkdir(mode=0o711, parents=True, exist_ok=True)
    for name in made:
        (data / name).mkdir(mode=0o700, exist_ok=True)
    for path, taken in _places(data):
        with contextlib.suppress(FileNotFoundError, PermissionError):  # a log that is rotated just now; not ours
            mode = path.stat().st_mode & 0o7777
            if mode & taken:
                path.chmod(mode & ~taken)


def readable(data: Path) -> list[Path]:
    """What other users can read nevertheless."""
    found = []
    for path, taken in _places(data):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mode & taken:
                found.append(path)
    return found


def key(path: Path) -> str:
    """A key that is made at the first start and kept. Only its owner can read it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(48))
        try:
            path.hardlink_to(fresh)  # the first process wins; the others read its key
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text().strip()


def _places(data: Path) -> Iterator[tuple[Path, int]]:
    """What has to be closed, and which rights are taken away."""
    yield data, LOOK
    for name in FOLDERS:
        yield data / name, ALL
    for log in (data / "logs").glob("*"):
        yield log, ALL
