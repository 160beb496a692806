"""The data folder is its user's: nobody else on the machine reads prompts, answers, logs or keys in it.

Other users may pass through the folder itself, and no more: PostgreSQL, which is one of them for root, has its own in
there. What is no secret (models, static files) stays as it is. Closed at every start, so that folders of an earlier
version, or a copy that lost its modes, are mended.
"""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

FOLDERS = ("files", "logs", "run", "tmp")
MADE = ("files", "tmp")  # by every process; the others by the programs that need them
LOOK, ALL = 0o066, 0o077  # what is taken from others: reading and writing; passing through as well


def close(data: Path, made: Sequence[str] = MADE) -> None:
    """Make these folders where they are missing. What belongs to somebody else is left to `readable` to tell."""
    data.mkdir(mode=0o711, parents=True, exist_ok=True)
    for name in made:
        (data / name).mkdir(mode=0o700, exist_ok=True)
    for path, taken in _places(data):
        with contextlib.suppress(FileNotFoundError, PermissionError):  # a log that is rotated just now; not ours
            mode = path.stat().st_mode & 0o7777
            if mode & taken:
                path.chmod(mode & ~taken)


def readable(data: Path) -> list[Path]:
    """What other users can read all the same."""
    found = []
    for path, taken in _places(data):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mode & taken:
                found.append(path)
    return found


def key(path: Path) -> str:
    """One that is made at the first start and kept, readable by its owner only."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(48))
        try:
            path.hardlink_to(fresh)  # whoever is first wins; the others read what it wrote
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text().strip()


def _places(data: Path) -> Iterator[tuple[Path, int]]:
    """What is to be closed, and how far."""
    yield data, LOOK
    for name in FOLDERS:
        yield data / name, ALL
    for log in (data / "logs").glob("*"):
        yield log, ALL
